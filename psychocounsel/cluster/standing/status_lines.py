"""Table of `jobs status`: one line per run, the reasons of waiting and ended runs, and the number of runs in each state."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from psychocounsel.cluster.base import Usage
from psychocounsel.cluster.standing.status import Row
from psychocounsel.errors import UserError
from psychocounsel.storage.files import readable_time

_USED = ("cpu", "memory", "GPU-hours")  # columns that are omitted if no cluster keeps accounts
_TITLES = ("index", "state", "step", "loss", "attempts", "elapsed", "left", *_USED, "job", "node", "overrides")
_OF_TRAININGS = ("loss", "left")  # columns that are omitted if no run trains
ENDED = ("failed", "stopped", "lost", "cancelled", "ended")


def table(found: Sequence[Row], folder: Path) -> str:
    """Return one line per run, the number of runs in each state, and the command to type next."""
    names = ["" if row.index is None else str(row.index) for row in found]
    lines = [*lines_of(found, names, telling(found)), "", *reasons(found, names), counted(found)]
    if any(row.state in ENDED for row in found):
        lines.append(f"to resume them: python -m psychocounsel.jobs resubmit {short(folder)}")
    return "\n".join(lines)


def telling(found: Sequence[Row]) -> list[str]:
    """Return the overrides of each run that not all runs share."""
    given = [row.overrides.split(" ") for row in found]
    common = set.intersection(*map(set, given)) if len(given) > 1 else set()
    return [" ".join(text for text in each if text not in common) for each in given]


def lines_of(found: Sequence[Row], names: Sequence[str], overrides: Sequence[str], first: str = "index") -> list[str]:
    """Return the header, and a line per run: name, state and overrides."""
    trains = any(row.trains for row in found)
    titles = (first, *(title if trains or title != "step" else "at" for title in _TITLES[1:]))
    rows = [(name, *_cells(row), text) for name, row, text in zip(names, found, overrides, strict=True)]
    left_out = {*(() if trains else _OF_TRAININGS), *(() if any(row.usage for row in found) else _USED)}
    shown = [column for column, title in enumerate(titles) if title not in left_out]
    return aligned([[line[column] for column in shown] for line in (titles, *rows)])


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def reasons(found: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Return a line for each state and reason of waiting or ended runs, with the runs' names, for instance `0-99, 120`."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, row in zip(names, found, strict=True):
        if row.reason:
            groups.setdefault((row.state, row.reason), []).append(name)
    return [f"{ranges(each)}: {state}: {reason}".removeprefix(": ") for (state, reason), each in groups.items()]


def ranges(names: Sequence[str]) -> str:
    """Return `0-2, 7` for 0, 1, 2, 7; names that are not numbers are kept."""
    parts: list[list[str]] = []
    for name in names:
        if parts and name.isdigit() and parts[-1][-1].isdigit() and int(name) == int(parts[-1][-1]) + 1:
            parts[-1] = [parts[-1][0], name]
        else:
            parts.append([name])
    return ", ".join("-".join(part) for part in parts)


def refuse_unknown_index(given: Iterable[int], known: Iterable[int | None]) -> None:
    """Refuse an index that no run has. Forgotten runs leave gaps, so all `known` indices are named.

    Raises:
        UserError: with the indices of the folder's runs.
    """
    numbers = sorted(index for index in known if index is not None)
    if unknown := set(given) - set(numbers):
        said = f"the runs have the indices {ranges([*map(str, numbers)])}" if numbers else "the folder contains no run"
        raise UserError(f"no index {min(unknown)}: {said}")


def counted(found: Sequence[Row]) -> str:
    """Return counts of states, for instance "2 finished, 1 running"."""
    counts: dict[str, int] = {}
    for row in found:
        counts[row.state] = counts.get(row.state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _cells(row: Row) -> tuple[str, ...]:
    total = "" if row.total is None else f"/{row.total}"
    at = f"{row.step}{total}" if row.trains or row.step else ""
    return (
        row.state,
        " ".join(filter(None, ("" if row.trains or row.state != "running" else row.phase, at))) if row.attempts else "",
        "" if row.loss is None else f"{row.loss:.4f}",
        str(row.attempts or ""),
        "" if row.elapsed is None else readable_time(row.elapsed),
        "" if row.remaining is None or row.state != "running" else readable_time(row.remaining),
        *_used(row.usage),
        row.task,
        row.node,
    )


def _used(usage: Usage | None) -> tuple[str, str, str]:
    """Return the used share of allocated CPU time, peak memory of a process out of the requested memory, and GPU-hours."""
    if usage is None:
        return "", "", ""
    share = f"{usage.cpu_seconds / usage.allocated_cpu_seconds:.0%}" if usage.allocated_cpu_seconds else ""
    asked = f" of {usage.requested_memory / 2**30:.1f}" if usage.requested_memory else ""
    memory = f"{usage.memory / 2**30:.1f}{asked} GB" if usage.memory else ""
    return share, memory, f"{usage.gpu_hours:.1f}" if usage.gpu_hours else ""


def short(folder: Path) -> str:
    relative = os.path.relpath(folder)
    return relative if len(relative) < len(str(folder)) else str(folder)


def watch(folder: Path, seconds: float, show: Callable[[], tuple[str, bool]]) -> None:
    """Print the text of `show` repeatedly until nothing runs or waits; `show` returns the text, and True while something does."""
    clear = "\033[2J\033[H" if sys.stdout.isatty() else ""
    while True:
        text, is_live = show()
        print(f"{clear}{time.strftime('%H:%M:%S')}  {folder}\n\n{text}", flush=True)
        if not is_live:
            return
        time.sleep(seconds)
