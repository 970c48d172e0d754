"""`jobs logs`: prints the output of a rank, live with `follow`."""

import sys
import time
from pathlib import Path

from psychocounsel.cluster.standing.status import rows
from psychocounsel.errors import UserError
from psychocounsel.rundir.attempts import next_number
from psychocounsel.rundir.paths import AttemptDir, RunDir
from psychocounsel.rundir.sweep_table import runs_of

_SECONDS = 0.5
_ASK_SECONDS = 30.0  # interval in which the cluster is asked if the run is live


def show(folder: Path, index: int | None, rank: int, number: int | None, follow: bool) -> None:
    """Print a rank's output; with `follow` also new output, across attempts, until the run ends.

    Raises:
        UserError: if the run does not exist; without `follow`, also if the attempt or the rank's output does not.
    """
    run = run_of(folder, index)
    if not follow:
        print(_file(run, number or next_number(run) - 1, rank).read_text(errors="replace"), end="")
        return
    current, position, asked = number or max(1, next_number(run) - 1), 0, 0.0
    while True:
        file = _printed(RunDir(run).attempt(current), rank)
        if file.exists():
            with open(file, "rb") as handle:
                handle.seek(position)
                text = handle.read()
            position += len(text)
            sys.stdout.write(text.decode(errors="replace"))
            sys.stdout.flush()
            if text:
                continue
        if number is None and next_number(run) - 1 > current:
            current, position = current + 1, 0
            continue
        if time.monotonic() - asked > _ASK_SECONDS:
            asked = time.monotonic()
            row = next(row for row in rows(folder) if row.run_dir == run)
            if not row.is_live:
                print(f"[{row.state}] {row.reason}".rstrip(), file=sys.stderr)
                return
        time.sleep(_SECONDS)


def run_of(folder: Path, index: int | None) -> Path:
    """Return the run of this index, or the only run.

    Raises:
        UserError: if the index does not exist, or several runs exist and no index is given.
    """
    listed = runs_of(folder)
    if index is None and len(listed) > 1:
        raise UserError(f"{folder} contains {len(listed)} runs: give an index from 0 to {len(listed) - 1}")
    found = {run.index: run.run_dir for run in listed}
    if index is not None and index not in found:
        raise UserError(f"no index {index}: indices go from 0 to {len(listed) - 1}")
    return found[index if index is not None else listed[0].index]


def _file(run: Path, number: int, rank: int) -> Path:
    attempt = RunDir(run).attempt(number)
    file = _printed(attempt, rank)
    if not attempt.path.is_dir():
        raise UserError(f"{run}: nothing has started yet" if number < 2 else f"{run}: no attempt {number}")
    if not file.exists():
        raise UserError(f"{file}: no such file; available: {', '.join(attempt.output_names()) or 'none yet'}")
    return file


def _printed(attempt: AttemptDir, rank: int) -> Path:
    """Return the file with a rank's output; for rank 0 of a local run, which prints on the terminal, its log."""
    output, log = attempt.output(rank), attempt.log(rank)
    return log if log.exists() and not output.exists() else output
