"""`metrics.jsonl`: one line per step, even after kills and resumes."""

import json
import os
from pathlib import Path
from typing import Any

from psychocounsel.rundir.paths import RunDir
from psychocounsel.storage.files import write_atomically

_TAIL_BYTES = 1 << 15


class MetricsLog:
    """Appends lines; opening the log at a step removes the lines after that step, which will be written again."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.earlier = [line for line in read_metrics(path) if line["step"] <= step]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in self.earlier))
        self.file = open(path, "a", 1)

    def write(self, line: dict[str, Any]) -> None:
        self.file.write(json.dumps(line) + "\n")

    def sync(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file up to the first damaged line, usually the last, which a kill cut short."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
            line["step"]
        except (ValueError, TypeError, KeyError, RecursionError):
            break
        lines.append(line)
    return lines


def last_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Return the last lines of a run's metrics, oldest first: some dozens, read quickly even from a long file."""
    path, lines = RunDir(run_dir).metrics, []
    if not path.exists():
        return []
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        for text in file.read().splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue  # cut short at either end
    return [line for line in lines if isinstance(line, dict)]
