"""`jobs logs`: prints the output of a rank, live with `follow`."""

import codecs
import contextlib
import sys
import time
from pathlib import Path

from psychocounsel.cluster.base import NoAnswer
from psychocounsel.cluster.states import ranges, refuse_unknown_index, rows_of
from psychocounsel.errors import UserError
from psychocounsel.rundir import submissions
from psychocounsel.rundir.paths import AttemptDir, RunDir
from psychocounsel.rundir.run import attempts, next_number
from psychocounsel.rundir.sweep import ListedRun, runs_of

_SECONDS = 0.5
_ASK_SECONDS = 30.0  # interval in which the cluster is asked if the run is live
_LATE_SECONDS = 30.0  # time that a rank's output may appear after those of other ranks, on a slow file system


def show(folder: Path, index: int | None, rank: int, number: int | None, follow: bool) -> None:
    """Print a rank's output; with `follow` also new output, across attempts unless `number` is given, until it ends.

    Without `number`, the end of an ended run follows, because its last job may have died before it wrote any output.

    Raises:
        UserError: if the run or the rank's output does not exist; without `follow`, also if the attempt does not.
    """
    run = run_of(folder, index)
    latest = next_number(run) - 1
    if not follow:
        before = _job_log(run) if number is None and not latest else None
        file = before or _file(run, latest if number is None else number, rank)
        print(file.read_text(errors="replace"), end="", flush=True)
        if number is None:
            with contextlib.suppress(UserError):  # the cluster refuses to answer, and the log is shown all the same
                if end := _end_of(run):
                    print(end, file=sys.stderr)
        return
    current = max(1, latest) if number is None else number
    while not _follow(run, current, rank, number is None):
        current += 1


def _follow(run: Path, number: int, rank: int, goes_on: bool) -> bool:
    """Print the output of an attempt until it ends; return True if nothing follows it.

    Whether the attempt has ended is determined before its output is read, so that its last lines are printed.
    """
    output, last_query, came = _Output(RunDir(run).attempt(number), rank), 0.0, time.monotonic()
    while True:
        is_over, end = next_number(run) - 1 > number, ""
        if not goes_on and not is_over:
            is_over = any(attempt["number"] == number and "ended" in attempt for attempt in attempts(run))
        if not is_over and time.monotonic() - last_query > _ASK_SECONDS:
            last_query = time.monotonic()
            end = _end_of(run)
        output.print_new()
        if is_over or end:
            output.print_rest()
            if end:
                print(end, file=sys.stderr)
            return bool(end) or not goes_on
        if output.exists or not output.attempt.output_names():
            came = time.monotonic()
        elif time.monotonic() - came > _LATE_SECONDS:
            _file(run, number, rank)  # refuses the missing rank
        time.sleep(_SECONDS)


def _end_of(run: Path) -> str:
    """Return the state and reason of a run that has ended; "" for a live run, and while the cluster does not answer."""
    try:
        (row,) = rows_of([ListedRun(None, run, "")])
    except NoAnswer:
        return ""
    return "" if row.is_live else f"[{row.state}] {row.reason}".rstrip()


class _Output:
    """Output of a rank in an attempt, printed piece by piece. A character whose bytes arrive in two pieces is printed once."""

    def __init__(self, attempt: AttemptDir, rank: int) -> None:
        self.attempt, self.rank, self.exists = attempt, rank, False
        self._position = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def print_new(self) -> None:
        file = _printed(self.attempt, self.rank)
        self.exists = file.exists()
        if not self.exists:
            return
        with open(file, "rb") as handle:
            handle.seek(self._position)
            text = handle.read()
        self._position += len(text)
        print(self._decoder.decode(text), end="", flush=True)

    def print_rest(self) -> None:
        """Print the bytes of an incomplete character at the end of the file."""
        print(self._decoder.decode(b"", final=True), end="", flush=True)


def run_of(folder: Path, index: int | None) -> Path:
    """Return the run of this index, or the only run.

    Raises:
        UserError: if the index does not exist, no run exists, or several exist and no index is given.
    """
    run_dirs = {run.index: run.run_dir for run in runs_of(folder)}
    if index is not None:
        refuse_unknown_index([index], run_dirs)
        return run_dirs[index]
    if not run_dirs:
        raise UserError(f"{folder}: contains no run; all were forgotten")
    if len(run_dirs) > 1:
        raise UserError(
            f"{folder} contains {len(run_dirs)} runs: give one of the indices {ranges([*map(str, run_dirs)])}"
        )
    return next(iter(run_dirs.values()))


def _file(run: Path, number: int, rank: int) -> Path:
    attempt = RunDir(run).attempt(number)
    file = _printed(attempt, rank)
    if not attempt.path.is_dir():
        last = next_number(run) - 1
        raise UserError(
            f"{run}: no attempt {number}; the last is {last}" if last else f"{run}: nothing has started yet"
        )
    if not file.exists():
        end = _end_of(run)
        names = ", ".join(attempt.output_names()) or "none"
        raise UserError(f"{file}: no such file; available: {names}" + (f"; the run: {end}" if end else ""))
    return file


def _job_log(run: Path) -> Path | None:
    """Return the output of the last job that ended before the run's first attempt; None without one."""
    records = [
        (record, index)
        for record in submissions.read(submissions.home_of(run))
        for index, task in enumerate(record.tasks)
        if run in task
    ]
    logs = [record.files.job_log(record.task_name(index)) for record, index in records]
    return next((log for log in reversed(logs) if log.exists() and log.stat().st_size), None)


def _printed(attempt: AttemptDir, rank: int) -> Path:
    """Return the file with a rank's output; for rank 0 of a local run, which prints on the terminal, its log."""
    output, log = attempt.output(rank), attempt.log(rank)
    return log if log.exists() and not output.exists() else output
