"""Reason of a process's end: the last line of its log that names an error."""

import re
from pathlib import Path

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


def last_error(*files: Path) -> str:
    """Return the last line that names an error, from the first of `files` with such a line.

    If no line names an error, the last line of the first file with lines is returned, or "". Lines that only report
    killed processes are ignored. The line is cut at 240 characters.
    """
    ends = [_end(file) for file in files]
    for lines in ends:
        if named := [line for line in lines if _ERROR.search(line)]:
            return _cut(named[-1])
    return next((_cut(lines[-1]) for lines in ends if lines), "")


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
