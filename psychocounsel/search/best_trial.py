"""Report of a search's best trial: printed lines, a link and a file."""

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psychocounsel.rundir.paths import SweepDir
from psychocounsel.rundir.summary import objective_interval
from psychocounsel.search.trial_journal import TrialJournal
from psychocounsel.storage.files import fsync_directory, write_json


def mark_best(journal: TrialJournal, folder: Path, fixed: Sequence[str]) -> list[str]:
    """Link `folder/best` to the best run, write `best.json`, and return lines for the user.

    `fixed` holds the overrides that were not searched. Pruned trials do not count; without a finished trial nothing is
    written.
    """
    trials = journal.results(folder)
    counts: dict[str, int] = {}
    for trial in trials:
        counts[trial.state.name] = counts.get(trial.state.name, 0) + 1
    done = [trial for trial in trials if trial.state.name == "COMPLETE"]
    said = ", ".join(f"{count} {_WORDS[name]}" for name, count in counts.items())
    if not done:
        return [f"search: {said or 'no trial has started'}"]
    sign = 1 if journal.smaller else -1
    ranked = sorted(done, key=lambda trial: (sign * trial.value, trial.number))
    best = journal.run_of(ranked[0], folder)
    mode = "min" if journal.smaller else "max"
    chosen = {"run": best.name, "setting": ranked[0].params, "value": ranked[0].value}
    rows = [{"setting": trial.params, "mean": trial.value, "runs": [_row(journal, trial, folder)]} for trial in ranked]
    write_json(
        SweepDir(folder).best_record, {"metric": journal.metric, "mode": mode, "chosen": chosen, "settings": rows}
    )
    _link(SweepDir(folder).best, best.name)
    values = " ".join(f"{key}={value}" for key, value in ranked[0].params.items())
    return [
        f"search: {said}",
        f"best by {journal.metric}: {ranked[0].value:.4g}{objective_interval(best, journal.metric)} in {best}",
        f"train with its values: python -m psychocounsel.train {' '.join([*_lasting(fixed), values])}",
    ]


_WORDS = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "unfinished", "WAITING": "waiting"}


def _row(journal: TrialJournal, trial: Any, folder: Path) -> dict[str, Any]:
    return {"run": journal.run_of(trial, folder).name, "value": trial.value}


def _lasting(fixed: Sequence[str]) -> list[str]:
    return [text for text in fixed if not text.startswith(("sweep_dir=", "dry_run="))]


def _link(link: Path, target: str) -> None:
    """Atomically replace `link` by a link to its neighbour `target`."""
    draft = link.with_name(f".{link.name}.{uuid.uuid4().hex}.tmp")
    os.symlink(target, draft)
    os.replace(draft, link)
    fsync_directory(link.parent)
