"""`jobs logs`: what a rank of a run prints, as it prints it."""

import sys
import time
from pathlib import Path

from psychocounsel.cluster.standing.status import rows
from psychocounsel.errors import UserError
from psychocounsel.rundir.attempts import next_number
from psychocounsel.rundir.paths import AttemptDir, RunDir
from psychocounsel.rundir.sweep_table import runs_of

_SECONDS = 0.5
_ASK_SECONDS = 30.0  # how often the cluster is asked whether the run still lives


def show(folder: Path, index: int | None, rank: int, number: int | None, follow: bool) -> None:
    """Print a rank's output; with `follow` what comes, from one attempt to the next, until the run ends.

    Raises:
        UserError: if there is no such run, attempt or rank, or nothing has begun.
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
    """The run of this index, or the only one.

    Raises:
        UserError: if there is no such run, or there are several and no index is given.
    """
    listed = runs_of(folder)
    if index is None and len(listed) > 1:
        raise UserError(f"{folder} holds {len(listed)} runs: give an index from 0 to {len(listed) - 1}")
    found = {run.index: run.run_dir for run in listed}
    if index is not None and index not in found:
        raise UserError(f"there is no index {index}: they go from 0 to {len(listed) - 1}")
    return found[index if index is not None else listed[0].index]


def _file(run: Path, number: int, rank: int) -> Path:
    attempt = RunDir(run).attempt(number)
    file = _printed(attempt, rank)
    if not attempt.path.is_dir():
        raise UserError(f"{run}: nothing has begun yet" if number < 2 else f"{run}: there was no attempt {number}")
    if not file.exists():
        raise UserError(f"{file}: there is no such file; there are {', '.join(attempt.output_names()) or 'none yet'}")
    return file


def _printed(attempt: AttemptDir, rank: int) -> Path:
    """What a rank printed; of a run on this machine, whose rank 0 prints on the terminal, its log."""
    output, log = attempt.output(rank), attempt.log(rank)
    return log if log.exists() and not output.exists() else output
