"""Training runs together with the win rates that separate evaluations measured for their models."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from psychocounsel.reporting.material import EVALUATION, TRAINING, Material, RunMaterial

JUDGED = "judged/win_rate"
_OF_EVALUATION = {JUDGED: "win_rate", f"{JUDGED}_low": "win_rate_low", f"{JUDGED}_high": "win_rate_high"}


def judged_runs(material: Material) -> list[RunMaterial]:
    """Return training runs. If exactly one finished `evaluation=winrate` judged a run's model, the run gets the figure JUDGED."""
    found = defaultdict[Path, list[RunMaterial]](list)
    for run in material.of(EVALUATION):
        if run.what == "winrate" and run.is_finished and run.evaluates is not None:
            found[run.evaluates].append(run)
    return [_with_win_rate(run, found[run.path]) for run in material.of(TRAINING)]


def _with_win_rate(run: RunMaterial, evaluations: Sequence[RunMaterial]) -> RunMaterial:
    """Return the run with the win rate of its evaluation. Several evaluations are ignored: their judges or opponents differ."""
    metrics: dict[str, Any] = run.summary.get("metrics") or {}
    if len(evaluations) != 1 or "best" not in metrics:
        return run
    judged = evaluations[0].summary.get("metrics") or {}
    figures = {name: judged[key] for name, key in _OF_EVALUATION.items() if key in judged}
    return replace(run, summary={**run.summary, "metrics": {**metrics, "best": {**(metrics["best"] or {}), **figures}}})
