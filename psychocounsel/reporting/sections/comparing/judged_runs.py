"""Trainings beside what judges said of their models in separate evaluations."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from psychocounsel.reporting.material import EVALUATION, TRAINING, Material, RunMaterial

JUDGED = "judged/win_rate"
_OF_EVALUATION = {JUDGED: "win_rate", f"{JUDGED}_low": "win_rate_low", f"{JUDGED}_high": "win_rate_high"}


def judged_runs(material: Material) -> list[RunMaterial]:
    """The trainings, with the win rate of the one finished `evaluation=winrate` of their model as the figure JUDGED."""
    found = defaultdict[Path, list[RunMaterial]](list)
    for run in material.of(EVALUATION):
        if run.what == "winrate" and run.is_finished and run.evaluates is not None:
            found[run.evaluates].append(run)
    return [_with_win_rate(run, found[run.path]) for run in material.of(TRAINING)]


def _with_win_rate(run: RunMaterial, evaluations: Sequence[RunMaterial]) -> RunMaterial:
    """Several evaluations have other judges or opponents, so that none of them stands for all."""
    metrics: dict[str, Any] = run.summary.get("metrics") or {}
    if len(evaluations) != 1 or "best" not in metrics:
        return run
    judged = evaluations[0].summary.get("metrics") or {}
    figures = {name: judged[key] for name, key in _OF_EVALUATION.items() if key in judged}
    return replace(run, summary={**run.summary, "metrics": {**metrics, "best": {**(metrics["best"] or {}), **figures}}})
