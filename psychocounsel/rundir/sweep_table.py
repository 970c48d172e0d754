"""`sweep.jsonl`: the runs of a sweep, each with its index, overrides and folder."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import RunDir, SweepDir
from psychocounsel.rundir.run_config import is_run
from psychocounsel.storage.files import write_atomically


@dataclass(frozen=True)
class ListedRun:
    """A run as listed in its sweep; `overrides` as on the command line. Jobs that a study adds have no index."""

    index: int | None
    run_dir: Path
    overrides: str


def is_sweep(folder: Path) -> bool:
    return SweepDir(folder).table.exists()


def runs_of(folder: Path) -> list[ListedRun]:
    """Return the runs of a sweep, or the one run.

    Raises:
        UserError: if the folder is neither a sweep nor a run, or the sweep's table is damaged.
    """
    if is_sweep(folder):
        return [
            ListedRun(row["index"], folder / row["run_dir"], " ".join(row["overrides"])) for row in _read_table(folder)
        ]
    if is_run(folder):
        given = RunDir(folder).overrides
        return [ListedRun(0, folder, " ".join(given.read_text().split("\n")).strip() if given.exists() else "")]
    run, sweep = RunDir(folder).job.name, SweepDir(folder).table.name
    raise UserError(f"{folder}: is neither a run (it has no {run}) nor a sweep (no {sweep})")


def add_to_table(sweep: Path, runs: Iterable[tuple[Path, list[str]]]) -> None:
    """Add runs (folder and overrides) to `sweep.jsonl`; runs of earlier commands keep their lines."""
    rows = {row["run_dir"]: row for row in _read_table(sweep)}
    for run_dir, overrides in runs:
        folder = str(run_dir.relative_to(sweep))
        index = max((row["index"] for row in rows.values()), default=-1) + 1
        rows.setdefault(folder, {"index": index, "overrides": overrides, "run_dir": folder})
    _write_table(sweep, rows.values())


def remove_from_table(sweep: Path, runs: Iterable[Path]) -> None:
    """Remove runs from `sweep.jsonl`; the others keep their indices."""
    gone = {str(run.relative_to(sweep)) for run in runs}
    _write_table(sweep, [row for row in _read_table(sweep) if row["run_dir"] not in gone])


def _write_table(sweep: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_atomically(SweepDir(sweep).table, "".join(json.dumps(row) + "\n" for row in rows))


def is_unused(sweep: Path) -> bool:
    """Return True if the folder holds only the file that Hydra writes before anything is checked."""
    return sweep.is_dir() and list(sweep.iterdir()) == [SweepDir(sweep).multirun]


def _read_table(sweep: Path) -> list[dict[str, Any]]:
    table = SweepDir(sweep).table
    if not table.exists():
        return []
    rows = []
    for number, line in enumerate(table.read_text(errors="replace").splitlines(), 1):
        try:
            row = json.loads(line)
            row["index"], row["run_dir"], " ".join(row["overrides"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{table} line {number}: is damaged; repair it, or remove it and repeat the command"
            ) from error
        rows.append(row)
    return rows
