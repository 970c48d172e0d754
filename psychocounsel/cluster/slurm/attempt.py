"""Commands of the batch script before and after each attempt at a run.

`python -m psychocounsel.cluster.slurm.attempt begin RUN` prints the attempt's number and a free port of this node as the
ranks' rendezvous. It prints nothing if there is nothing to do, with exit code 0 for a finished run and the last attempt's
code for a run that was given up, or stopped by `touch RUN/stop`, in this submission.

`... end RUN NUMBER CODE ASKED` prints `again`, or the exit code for the job. ASKED is the signal that asked the run to
stop, or `no`.

`... sync SECONDS RUN...` uploads what runs with `tracker.sync` stored offline, and writes the result to their logs.
"""

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from psychocounsel.cluster.attempt_ending import NO_SIGNAL, STOP_FILE, AttemptEnding, judge, last_error, progress_mark
from psychocounsel.cluster.slurm.accounting import ran_out_of_memory
from psychocounsel.errors import CONTINUE_LATER, DONE, GATE_NO, USER_ERROR
from psychocounsel.remote.server_access import free_port
from psychocounsel.rundir import submissions
from psychocounsel.rundir.owner import forget_owner
from psychocounsel.rundir.paths import AttemptDir, RunDir
from psychocounsel.rundir.results import is_finished, limit_reached, read_state
from psychocounsel.rundir.run import attempts, next_number, note_attempt
from psychocounsel.rundir.run_config import read_config, read_section
from psychocounsel.rundir.submissions import home_of
from psychocounsel.storage.files import point
from psychocounsel.storage.modes import let_nobody_else_write

_SIGNALS = {"Killed": 137, "Terminated": 143, "Aborted": 134, "Segmentation fault": 139, "Bus error": 135}
_SIGNALS |= {"User defined signal 1": 138, "Interrupt": 130, "Out Of Memory": 137}
_BY_SIGNAL = 128  # an exit code above it is this number plus that of the signal that ended the process
_BY_SRUN = re.compile(r"^srun: ", re.MULTILINE)
_FAILED_TASK = re.compile(r"srun: error: (\S+): tasks? ([\d,\- ]+): (.+)")


def begin(run_dir: Path) -> tuple[str, int]:
    """Start an attempt: make `logs/NN`, point `logs/latest` to it, and return NN and 0.

    If there is nothing to do, return "" and an exit code: 0 for a finished run, and the last attempt's code for a run
    that was given up, or stopped by `touch RUN/stop`, in this submission.
    """
    job = os.environ.get("SLURM_JOB_ID")
    earlier = attempts(run_dir)
    if is_finished(run_dir):
        return "", DONE
    last = earlier[-1] if earlier else {}
    same_job = bool(last) and last.get("job") == job
    no_more = last.get("verdict") == "failed" or last.get("signal") == STOP_FILE
    if no_more and (same_job or _is_of_this_submission(run_dir, last)):
        return "", last["code"]  # the job was requeued for another of its runs, or is a later segment
    if same_job and job:  # a requeued job has no live process that could own the directory
        forget_owner(run_dir, job)
    files = RunDir(run_dir)
    attempt = files.attempt(next_number(run_dir))
    attempt.path.mkdir(parents=True)
    names = ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_NODELIST")
    array, index, restarts, nodes = (os.environ.get(name) for name in names)
    about = {"job": job, "array": array, "index": index, "restarts": int(restarts or 0), "nodes": nodes}
    note_attempt(attempt, **about, started=time.time())
    point(files.latest_attempt, attempt.path.name)
    return attempt.path.name, DONE


def _is_of_this_submission(run_dir: Path, earlier: Mapping[str, Any]) -> bool:
    """Return True if the job of an earlier attempt and this job are segments of one submission."""
    theirs = {earlier.get("job"), earlier.get("array")} - {None}
    mine = {os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")} - {None}
    return any(theirs & {*record.jobs} and mine & {*record.jobs} for record in submissions.read(home_of(run_dir)))


def end(run_dir: Path, number: int, code: int, stop_signal: str) -> str:
    """Record the end of an attempt; return `again` or an exit code."""
    attempt = RunDir(run_dir).attempt(number)
    errors = attempt.srun_errors.read_text(errors="replace") if attempt.srun_errors.exists() else ""
    tasks = failed_tasks(errors)
    rank, code = cause(tasks, code, stop_signal != NO_SIGNAL)
    node = next((task.node for task in tasks if task.rank == rank), "")
    lost = code == DONE and not is_finished(run_dir)  # srun returned 0 although a node was lost
    code = CONTINUE_LATER if lost else code
    stop_file = RunDir(run_dir).stop
    if code == CONTINUE_LATER and stop_file.exists():
        stop_signal = STOP_FILE
    by_srun = rank is None and code not in (DONE, CONTINUE_LATER) and _BY_SRUN.search(errors) is not None
    ended = _ending(run_dir, attempt, rank or 0, code, stop_signal, by_srun)
    if code > _BY_SIGNAL and not by_srun:
        named = last_error(attempt.output(rank or 0), attempt.srun_errors, only_named=True)
        killed = killed_words(code, rank, node, out_of_memory(errors), read_config(run_dir).cluster.get("memory"))
        ended = replace(ended, words="; ".join(filter(None, (killed, named))))
    if lost:
        ended = replace(ended, words="srun ended without an error before the run was finished")
    before = [record for record in attempts(run_dir) if record["number"] != number]
    restarts, cluster = int(os.environ.get("SLURM_RESTART_COUNT", 0)), read_config(run_dir).cluster
    requeues = cluster.get("requeue", True)
    # Without requeues, later segments go on.
    verdict = judge(ended, before, restarts, cluster.get("max_requeues", 0) if requeues else restarts + 1)
    about = {"code": code, "step": ended.step, "mark": ended.mark, "rank": rank, "signal": stop_signal}
    about["requeued"] = bool(requeues and verdict.goes_on)
    said = f"{run_dir.name}: {verdict.reason}"
    if verdict.word in ("failed", "crashed"):
        said = _last_words(attempt, rank or 0, said)
    note_attempt(attempt, ended=time.time(), verdict=verdict.word, reason=verdict.reason, **about)
    if stop_signal == STOP_FILE:
        stop_file.unlink(missing_ok=True)
    print(said, file=sys.stderr)
    return "again" if verdict.goes_on else str(0 if verdict.word == "finished" else code)


def sync(run_dirs: Sequence[Path], seconds: float) -> None:
    """Upload what runs with `tracker.sync` stored offline. The output is added to the log of the last attempt's rank 0."""
    from psychocounsel.cluster.archive import (
        sync_where_asked,
    )  # here, because it imports more than `begin` and `end` need

    deadline = time.monotonic() + seconds
    for run_dir in run_dirs:
        log = RunDir(run_dir).attempt(next_number(run_dir) - 1).output(0)
        if log.exists():
            with open(log, "a") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sync_where_asked(run_dir, max(1.0, deadline - time.monotonic()))


def _ending(run_dir: Path, attempt: AttemptDir, rank: int, code: int, stop_signal: str, by_srun: bool) -> AttemptEnding:
    logs = [attempt.output(rank), attempt.srun_errors]
    words = last_error(*(logs[::-1] if by_srun else logs)) if code != DONE and stop_signal == NO_SIGNAL else ""
    words = limit_reached(run_dir) if code == GATE_NO and not by_srun else words
    step, cache = read_state(run_dir).get("step", 0), (read_section(run_dir, "paths") or {}).get("cache")
    return AttemptEnding(code, step, stop_signal, words, by_srun, progress_mark(run_dir, step, cache))


class FailedTask(NamedTuple):
    """A task that srun reports: its exit code is 128 + N if signal N ended it."""

    rank: int
    code: int
    node: str


def failed_tasks(text: str) -> list[FailedTask]:
    """Return the failed tasks in the order in which srun noticed them."""
    failures = []
    for match in _FAILED_TASK.finditer(text):
        words = match[3].split(" (core dumped)")[0].strip()
        exited = re.search(r"exit code (\d+)", words)
        code = int(exited[1]) if exited else _SIGNALS.get(words, 1)
        failures += [FailedTask(rank, code, match[1]) for rank in _numbers(match[2])]
    return failures


def killed_words(code: int, rank: int | None, node: str, proof: str, memory: Any) -> str:
    """Return which process a signal ended (`code` is 128 + its number), and for SIGKILL the likely cause and the key.

    `proof`: what shows that it was killed for lack of memory, or "". `memory`: the value of `cluster.memory`.
    """
    who = "a process" if rank is None else f"rank {rank}"
    words = f"{who}{f' on {node}' if node else ''} was ended by {_name_of_signal(code - _BY_SIGNAL)}"
    if code != _BY_SIGNAL + signal.SIGKILL:
        return words
    cause = f"for lack of memory ({proof})" if proof else "often for lack of memory"
    return f"{words}, {cause}: raise cluster.memory{'' if memory is None else f'={memory}'}"


def _name_of_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def out_of_memory(errors: str, cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> str:
    """Return what shows that the kernel killed a process of this job for lack of memory; "" if nothing does.

    Asked are srun's messages `errors`, the job's control group on this node, and accounting.
    """
    if re.search(r"oom[-_ ]kill|Out Of Memory", errors, re.IGNORECASE):
        return "srun reports it"
    with contextlib.suppress(OSError):
        path = cgroups / own.read_text().rpartition("::/")[2].strip()
        for folder in (path, *path.parents):
            if folder.name.startswith("job_"):
                kills = re.search(r"^oom_kill (\d+)", (folder / "memory.events").read_text(), re.MULTILINE)
                return "oom_kill in its memory.events" if kills and int(kills[1]) else ""
    return "sacct reports it" if ran_out_of_memory(os.environ.get("SLURM_JOB_ID", "")) else ""


def _numbers(text: str) -> list[int]:
    """Parse a list of ranks: 0,2-4 -> 0, 2, 3, 4."""
    result: list[int] = []
    for part in text.replace(" ", "").split(","):
        low, _, high = part.partition("-")
        result += range(int(low), int(high or low) + 1)
    return result


def cause(causes: Sequence[FailedTask], code: int, stop_requested: bool) -> tuple[int | None, int]:
    """Return the rank that failed first (or None) and the attempt's exit code, given srun's `code`.

    srun returns the highest code, and ends the other ranks when one fails. These stop in order, with codes that do
    not show the cause.
    """
    if code == DONE:
        return None, DONE
    if wrong := [cause for cause in causes if cause[1] == USER_ERROR]:
        return wrong[0][0], USER_ERROR
    if causes and causes[0][1] == CONTINUE_LATER and not stop_requested:
        return None, CONTINUE_LATER  # the rank stopped by itself, and srun ended the others
    own = [cause for cause in causes if cause[1] not in (CONTINUE_LATER, 143)]
    if stop_requested:  # the signal kills a process that does not handle it yet
        own = [cause for cause in own if cause[1] != 138]
        code = CONTINUE_LATER if code in (138, 143) else code
    own.sort(key=lambda cause: cause[1] < 128)  # a killed rank comes before the ranks that failed because of it
    if own:
        return own[0][0], own[0][1]
    return None, CONTINUE_LATER if causes and stop_requested else code


def _last_words(attempt: AttemptDir, rank: int, reason: str) -> str:
    """Return the reason and the end of the failing rank's output, which are also written to a file of the attempt."""
    file = attempt.output(rank)
    lines = file.read_text(errors="replace").splitlines()[-20:] if file.exists() else []
    text = "\n".join([reason, f"rank {rank}, the end of {file}:", *(f"    {line}" for line in lines)])
    attempt.failure.write_text(text + "\n")
    return text


def main(arguments: list[str]) -> None:
    let_nobody_else_write()
    match arguments:
        case "begin", run_dir:
            number, code = begin(Path(run_dir))
            print(f"{number} {free_port()}" if number else "")
            sys.exit(code)
        case "end", run_dir, number, code, stop_signal:
            print(end(Path(run_dir), int(number), int(code), stop_signal))
        case "sync", seconds, *run_dirs:
            sync([*map(Path, run_dirs)], float(seconds))


if __name__ == "__main__":
    main(sys.argv[1:])
