"""End of an attempt at a run: the error in its logs, its progress, and the decision about another attempt."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.errors import CONTINUE_LATER, DONE, GATE_NO, GATE_UNDECIDED, USER_ERROR
from psychocounsel.rundir.paths import RunDir, StepsDir
from psychocounsel.rundir.results import BUDGET_SPENT, REFUSED

CANCELLED = "TERM"  # value of `stop_signal` after `scancel`
STOP_FILE = "stop file"  # value of `stop_signal` after `touch RUN/stop`
BY_ITS_USER = (CANCELLED, STOP_FILE)
NO_SIGNAL = "no"  # value of `stop_signal` if nothing asked the run to stop
_MOST_IDLE_STOPS = 3


@dataclass(frozen=True)
class AttemptEnding:
    """End of an attempt.

    Attributes:
        code: exit code of the attempt.
        step: last optimizer step.
        stop_signal: signal that asked it to stop, STOP_FILE or NO_SIGNAL.
        words: line of its logs about the end, or ""; for exit code 3, the limit that ended it (`limit_reached`).
        by_srun: True if srun itself failed, so that the code does not come from our processes.
        mark: see `progress_mark`.
    """

    code: int
    step: int
    stop_signal: str = NO_SIGNAL
    words: str = ""
    by_srun: bool = False
    mark: str = ""


@dataclass(frozen=True)
class AttemptVerdict:
    """Decision: `word` is finished, stopped, crashed or failed; `goes_on` if another attempt follows; `reason` is one line."""

    word: str
    goes_on: bool
    reason: str


def judge(
    ended: AttemptEnding, before: Sequence[Mapping[str, Any]], restarts: int, max_requeues: int
) -> AttemptVerdict:
    """Return the decision about an attempt.

    A crash is retried, unless the previous attempt crashed too and no step was made in between. Wrong input, a `guard`
    limit, a gate's refusal, a spent budget and the file `RUN/stop` end the run. So do three stops in a row without
    progress, because the next attempt would not get further; those that its user asked for do not count. After
    `max_requeues` requeues, no attempt follows.

    Args:
        before: the records of earlier attempts, oldest first.
        restarts: number of requeues of the job so far.
    """
    if ended.code == DONE:
        return AttemptVerdict("finished", False, "finished")
    detail = f": {ended.words}" if ended.words else ""
    at_once = {
        USER_ERROR: f"wrong input (exit code 2){detail}",
        GATE_NO: f"{_of_limit(ended)} (exit code 3)",
        GATE_UNDECIDED: "a gate could not decide (exit code 4)",
    }
    if ended.code in at_once and not ended.by_srun:
        return AttemptVerdict("failed", False, at_once[ended.code])
    stopped = ended.code == CONTINUE_LATER
    why = _stop(ended, detail) if stopped else _crash(ended, detail)
    if stopped and ended.stop_signal == STOP_FILE:
        return AttemptVerdict("stopped", False, why)
    if given_up := _given_up(ended, before, why, stopped):
        return AttemptVerdict("failed", False, given_up)
    if restarts >= max_requeues:
        word = "stopped" if stopped else "failed"
        return AttemptVerdict(word, False, f"{why}; not requeued: cluster.max_requeues={max_requeues}")
    return AttemptVerdict("stopped" if stopped else "crashed", True, why)


def _of_limit(ended: AttemptEnding) -> str:
    others = {REFUSED: "the gate refused", BUDGET_SPENT: "the budget is spent"}
    return others.get(ended.words, f"a `guard` limit stopped the run at step {ended.step}")


def _stop(ended: AttemptEnding, detail: str) -> str:
    return f"stopped{_at(ended)}" + (detail if ended.stop_signal == NO_SIGNAL else f" ({ended.stop_signal})")


def _crash(ended: AttemptEnding, detail: str) -> str:
    who = "srun itself failed" if ended.by_srun else f"crashed{_at(ended)}"
    return f"{who} (exit code {ended.code}){detail}"


def _at(ended: AttemptEnding) -> str:
    """Return the step of the end; "" at step 0, where an attempt that loads also is, and one that takes no steps."""
    return f" at step {ended.step}" if ended.step else ""


def _given_up(ended: AttemptEnding, before: Sequence[Mapping[str, Any]], why: str, stopped: bool) -> str:
    """Return the reason for giving up, or "" if another attempt is made."""
    last = before[-1] if before else {}
    if not stopped:
        if last.get("verdict") != "crashed" or ended.step > last.get("step", 0):
            return ""
        first = str(last.get("reason", ""))
        both = f"{why}, like the previous attempt" if first == why else f"{why}; the previous attempt {first}"
        return f"{both}, so the run was given up"
    if ended.stop_signal == CANCELLED:
        return ""
    uncancelled = [record for record in before if record.get("signal") not in BY_ITS_USER]
    idle = [record for record in uncancelled[1 - _MOST_IDLE_STOPS :] if record.get("verdict") == "stopped"]
    if len(idle) < _MOST_IDLE_STOPS - 1 or any(record.get("mark") != ended.mark for record in idle) or not ended.mark:
        return ""
    more = "more time (cluster.time) or fewer rows may help" if ended.stop_signal != NO_SIGNAL else "see the log"
    return f"{why}: the third stop in a row without progress, so the run was given up; {more}"


# The last line of a log that names an error.

_END_BYTES = 65536  # read from the end of a log, which may be long
_LONGEST = 240  # characters of a reason
_RANK = re.compile(r"^\s*(?:\[?rank\s?\d+\]?:\s*)?", re.IGNORECASE)
_ERROR = re.compile(
    r"""^(?:[A-Za-z_][\w.]*(?:Error|Exception)\b       # the last line of a Python traceback
    |error:|fatal:|ERROR\b|FATAL\b
    |(?:srun|sbatch|slurmstepd):\ (?:error|fatal|unrecognized|invalid)\b
    |Lmod\ has\ detected|ModuleCmd|/.*:\ line\ \d+:    # the batch script itself
    )|No\ space\ left\ on\ device|Disk\ quota\ exceeded|command\ not\ found|Permission\ denied|oom[-_ ]kill|out\ of\ memory""",
    re.VERBOSE | re.IGNORECASE,
)
# Lines that follow an error and do not name it.
_CONSEQUENCE = re.compile(
    r"task(?:s)? [\d,\- ]+: (?:Exited|Killed|Terminated|Aborted)|Terminating (?:StepId|job)|\*\*\* (?:STEP|JOB)|Force Terminated"
    r"|Job step aborted|ChildFailedError"
)


def last_error(*files: Path, only_named: bool = False) -> str:
    """Return the last line that names an error, from the first of `files` with such a line.

    If no line names an error, the last line of the first file with lines is returned (with `only_named`: none), or "". Lines that
    only report killed processes are ignored. The line is cut at 240 characters.
    """
    ends = [_end(file) for file in files]
    for lines in ends:
        if named := [line for line in lines if _ERROR.search(line)]:
            return _cut(named[-1])
    return next((_cut(lines[-1]) for lines in ends if lines and not only_named), "")


def _end(file: Path) -> list[str]:
    try:
        with open(file, "rb") as handle:
            handle.seek(max(0, file.stat().st_size - _END_BYTES))
            text = handle.read().decode(errors="replace")
    except OSError:
        return []
    lines = (_RANK.sub("", line).strip() for line in text.splitlines())
    return [line for line in lines if line and not _CONSEQUENCE.search(line)]


def _cut(line: str) -> str:
    line = "".join(letter if letter.isprintable() else " " for letter in line)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


# Progress of a run, from its files.


def progress_mark(run_dir: Path, step: int, cache: str | Path | None) -> str:
    """Return a text that changes with each optimizer step, shard of a round, answer, and stored reference log-probability.

    Reference log-probabilities are below `cache`, where other runs write too. Equal marks therefore prove that nothing was
    done, while different marks may come from another run.
    """
    files, tables = RunDir(run_dir), StepsDir(run_dir)
    places = [files.checkpoints, files.rounds, tables.answers, tables.steps, *files.journals]
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
