"""The attempts at a run: `logs/01`, `logs/02` and so on, under SLURM each with what came of it."""

from pathlib import Path
from typing import Any

from psychocounsel.storage.files import read_json

FILE = "attempt.json"


def attempts(run_dir: Path) -> list[dict[str, Any]]:
    """What is written down of every attempt under SLURM, oldest first, with its `number`."""
    files = sorted((run_dir / "logs").glob(f"[0-9]*/{FILE}"), key=lambda path: int(path.parent.name))
    return [{**(read_json(file) or {}), "number": file.parent.name} for file in files]


def next_number(run_dir: Path) -> int:
    """The number of the next attempt, wherever the earlier ones ran."""
    numbers = [int(path.name) for path in (run_dir / "logs").glob("[0-9]*") if path.name.isdigit()]
    return max(numbers, default=0) + 1
