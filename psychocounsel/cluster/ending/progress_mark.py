"""`progress_mark` tells whether an attempt got further than the one before, by the files of the run alone."""

import os
from pathlib import Path

from psychocounsel.rundir.paths import RunDir, StepsDir


def progress_mark(run_dir: Path, step: int, cache: str | Path | None) -> str:
    """A text that changes with each optimizer step, shard of a round, bought answer and stored reference log-probability.

    Reference log-probabilities lie below `cache`, where other runs add to them as well: two equal marks mean that nothing was
    done, while two different ones may come of another run.
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
    """How many files lie below `folder`, and how many bytes they hold."""
    number = size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.stat(os.path.join(place, name)).st_size
                number += 1
            except OSError:  # removed meanwhile
                continue
    return number, size
