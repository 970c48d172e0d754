"""Progress of a run from its files: `progress_mark` shows if an attempt got further than the previous one."""

import os
from pathlib import Path

from psychocounsel.rundir.paths import RunDir, StepsDir


def progress_mark(run_dir: Path, step: int, cache: str | Path | None) -> str:
    """Return a text that changes with each optimizer step, shard of a round, answer, and stored reference log-probability.

    Reference log-probabilities are below `cache`, where other runs write too. Equal marks therefore prove that nothing was
    done, while different marks may come from another run.
    """
    files, tables = RunDir(run_dir), StepsDir(run_dir)
    places = [
        files.checkpoints,
        files.rounds,
        tables.answers,
        tables.steps,
        files.counterfactual_answers,
        files.ranker_answers,
    ]
    places += [Path(cache) / "reference"] if cache else []
    counted = [_count(place) for place in places]
    return f"{step}:" + ",".join(f"{number}/{size}" for number, size in counted)


def _count(folder: Path) -> tuple[int, int]:
    """Return the number of files below `folder`, and their size in bytes."""
    number = size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.stat(os.path.join(place, name)).st_size
                number += 1
            except OSError:  # removed in the meantime
                continue
    return number, size
