"""What was submitted to a queue: `submissions/NNNN/` in a sweep's folder, or in a run's own."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.storage.files import read_json, write_json

FOLDER = "submissions"
FILE = "submission.json"


@dataclass
class Record:
    """One submitted script: the jobs of its segments, and the runs of each array index (of one job without an array)."""

    folder: Path
    jobs: list[str]
    tasks: list[list[Path]]
    submitted: float
    code: list[str]

    @property
    def is_array(self) -> bool:
        return len(self.tasks) > 1

    def index_of(self, run_dir: Path) -> int | None:
        return next((index for index, runs in enumerate(self.tasks) if run_dir in runs), None)

    def task_name(self, index: int) -> str:
        return f"{self.jobs[-1]}_{index}" if self.is_array else self.jobs[-1]


def new_folder(home: Path) -> Path:
    """Make the folder of the next submission."""
    parent = home / FOLDER
    parent.mkdir(parents=True, exist_ok=True)
    number = max((int(path.name) for path in parent.glob("[0-9]*")), default=0)
    while True:
        number += 1
        try:
            (parent / f"{number:04d}").mkdir()
            return parent / f"{number:04d}"
        except FileExistsError:  # another command's
            continue


def write(folder: Path, home: Path, jobs: Sequence[str], tasks: Sequence[Sequence[Path]], code: Sequence[Path]) -> None:
    """Note the jobs that SLURM has given ids to; runs and code relative to `home`, which may be moved."""
    relative = [[str(run.relative_to(home)) for run in runs] for runs in tasks]
    paths = [str(path.relative_to(home)) for path in code]
    write_json(folder / FILE, {"jobs": [*jobs], "submitted": time.time(), "code": paths, "tasks": relative})


def read(home: Path) -> list[Record]:
    """All submissions below `home`, oldest first; what never reached SLURM is none."""
    found = []
    for folder in sorted((home / FOLDER).glob("[0-9]*")):
        content: Any = read_json(folder / FILE)
        if content:
            tasks = [[home / run for run in runs] for runs in content["tasks"]]
            found.append(Record(folder, content["jobs"], tasks, content["submitted"], content["code"]))
    return found


def home_of(run_dir: Path) -> Path:
    """The folder that keeps the submissions of a run: its sweep's, or its own."""
    return run_dir.parent if (run_dir.parent / "sweep.jsonl").exists() else run_dir
