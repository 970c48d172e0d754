"""What became of the runs of a folder, by their own files and by what their clusters say."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from psychocounsel.cluster.base import Standing
from psychocounsel.cluster.kinds import by_cluster
from psychocounsel.rundir.attempts import attempts, next_number
from psychocounsel.rundir.metrics import last_metrics
from psychocounsel.rundir.owner import live_owner
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.run_config import has_config, module_of, read_section
from psychocounsel.rundir.summary import OF_GATES, is_finished, read_state, read_summary
from psychocounsel.rundir.sweep_table import ListedRun, runs_of
from psychocounsel.storage.files import DamagedFile, readable_time


@dataclass
class Row:
    """A run as `jobs status` shows it; `elapsed` and `remaining` in seconds."""

    index: int | None
    run_dir: Path
    overrides: str
    state: str = "not submitted"
    task: str = ""
    trains: bool = True
    phase: str = ""  # of what does not train
    step: int = 0
    total: int | None = None
    loss: float | None = None
    attempts: int = 0
    elapsed: float | None = None
    remaining: float | None = None
    node: str = ""
    reason: str = ""

    @property
    def is_live(self) -> bool:
        return self.state in ("running", "pending", "requeued")


def rows(folder: Path) -> list[Row]:
    """How every run of `folder`, a sweep's or the run's own, stands.

    Raises:
        UserError: if it holds no runs, or a cluster does not answer.
    """
    return rows_of(runs_of(folder))


def rows_of(listed: Sequence[ListedRun]) -> list[Row]:
    """How these runs stand. Raises as `rows`."""
    standings: dict[Path, Standing] = {}
    for cluster, runs in by_cluster(run.run_dir for run in listed if not _damage(run)):
        standings |= cluster.standings(runs)
    return [_marked(run, standings.get(run.run_dir)) for run in listed]


def _damage(run: ListedRun) -> str:
    """What is wrong with the run's configuration; empty if nothing is."""
    try:
        if read_section(run.run_dir, "cluster") is None and has_config(run.run_dir):
            return f"{RunDir(run.run_dir).config}: is not a run's configuration; restore it"
    except DamagedFile as error:
        return str(error)
    return ""


def _marked(run: ListedRun, here: Standing | None) -> Row:
    """The run's row; of a run with a damaged file, one that says so."""
    try:
        reason = _damage(run)
        return Row(run.index, run.run_dir, run.overrides, "damaged", reason=reason) if reason else _row(run, here)
    except DamagedFile as error:
        return Row(run.index, run.run_dir, run.overrides, "damaged", reason=str(error))


def _row(run: ListedRun, here: Standing | None) -> Row:
    state, summary, tried = read_state(run.run_dir), read_summary(run.run_dir), attempts(run.run_dir)
    row = Row(run.index, run.run_dir, _with_settled(run), step=state.get("step", 0), total=state.get("total"))
    row.attempts = next_number(run.run_dir) - 1
    row.trains, row.phase = module_of(run.run_dir).endswith(".train"), state.get("phase", "")
    last = tried[-1] if tried else {}
    _read_metrics(row)
    if tried:
        row.elapsed = sum(each["ended"] - each["started"] for each in tried if "ended" in each)
        if "ended" not in last:
            row.elapsed += max(0.0, state.get("heartbeat", 0.0) - last["started"])
        row.node = last.get("nodes") or ""
    if here:
        row.task = here.task
    if is_finished(run.run_dir):
        row.state, row.remaining, row.reason = "finished", None, ""
    elif here and here.is_live:
        _of_live(row, here, last)
    elif summary.get("status") in OF_GATES:  # whatever the cluster calls an exit code of 3 or 4
        row.state, row.remaining, row.reason = summary["status"], None, ""
    elif tried or (here and (here.was_ended or not state)):
        _of_ended(row, here, last)
    elif live_owner(run.run_dir):
        row.state = "running"
    elif summary:
        row.state = summary.get("status", "damaged")
    elif state:
        row.state = "ended"
    return row


def _with_settled(run: ListedRun) -> str:
    """Its overrides, and in the place of those whose values it has found when it began, these."""
    found = {
        key: each["value"] for key, each in (read_section(run.run_dir, "settled") or {}).items() if "value" in each
    }
    kept = [text for text in run.overrides.split(" ") if text.lstrip("+").partition("=")[0] not in found]
    return " ".join([*kept, *(f"{key}={value}" for key, value in found.items())])


def _of_live(row: Row, here: Standing, last: dict[str, Any]) -> None:
    if here.phase == "waiting":
        row.state = "requeued" if row.attempts else "pending"
        row.reason = last.get("reason") or here.reason if row.attempts else here.reason
        row.node, row.remaining = "", None
    else:
        row.state, row.node = "running", here.nodes
        row.elapsed = row.elapsed or here.elapsed


def _of_ended(row: Row, here: Standing | None, last: dict[str, Any]) -> None:
    """What the run itself wrote counts, and what the cluster says where the run could write nothing."""
    row.remaining = None
    if here and here.was_ended and last.get("verdict") != "failed":
        cancelled = here.ending == "cancelled"
        row.state = "cancelled" if cancelled else "stopped"
        row.reason = here.ending + (f" ({here.reason})" if cancelled and here.reason and not last else "")
    elif last.get("verdict"):
        row.state = "failed" if last["verdict"] in ("failed", "crashed") else "stopped"
        row.reason = last["reason"]
    elif last:
        row.state, row.reason = "lost", "killed before it could say why"
    elif here and here.ending:
        row.state, row.reason = "failed", f"never began ({here.ending})"
    else:  # SLURM keeps no record of an index that was cancelled before it began
        row.state, row.reason = "cancelled", "never began, and is not in the queue any more"


def _read_metrics(row: Row) -> None:
    """Loss of the last step, and the time that is left by the median of the last steps."""
    trained = [line for line in last_metrics(row.run_dir) if {"step", "loss", "step_seconds"} <= line.keys()]
    if trained:
        row.step, row.loss = trained[-1]["step"], trained[-1]["loss"]
        if row.total:
            row.remaining = (row.total - row.step) * median(line["step_seconds"] for line in trained)


# -- as a table

_TITLES = ("index", "state", "step", "loss", "attempts", "elapsed", "left", "job", "node", "overrides")
_OF_TRAININGS = ("loss", "left")  # columns that are left out where no run trains
ENDED = ("failed", "stopped", "lost", "cancelled", "ended")


def table(found: Sequence[Row], folder: Path) -> str:
    """One line a run, then how many are in which state, and what to type."""
    names = ["" if row.index is None else str(row.index) for row in found]
    lines = [*lines_of(found, names, telling(found)), "", *reasons(found, names), counted(found)]
    if any(row.state in ENDED for row in found):
        lines.append(f"go on with them: python -m psychocounsel.jobs resubmit {short(folder)}")
    return "\n".join(lines)


def telling(found: Sequence[Row]) -> list[str]:
    """The overrides of each run that not all of them have."""
    given = [row.overrides.split(" ") for row in found]
    common = set.intersection(*map(set, given)) if len(given) > 1 else set()
    return [" ".join(text for text in each if text not in common) for each in given]


def lines_of(found: Sequence[Row], names: Sequence[str], overrides: Sequence[str], first: str = "index") -> list[str]:
    """The titles, and a line a run: its name, how it stands, and its overrides."""
    trains = any(row.trains for row in found)
    titles = (first, *(title if trains or title != "step" else "at" for title in _TITLES[1:]))
    rows = [(name, *_cells(row), text) for name, row, text in zip(names, found, overrides, strict=True)]
    shown = [column for column, title in enumerate(titles) if trains or title not in _OF_TRAININGS]
    return aligned([[line[column] for column in shown] for line in (titles, *rows)])


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of equally many texts, one below another."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def reasons(found: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Why runs wait or have ended, a line each."""
    return [
        f"{name}: {row.state}: {row.reason}".removeprefix(": ")
        for name, row in zip(names, found, strict=True)
        if row.reason
    ]


def counted(found: Sequence[Row]) -> str:
    """As "2 finished, 1 running"."""
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
        row.task,
        row.node,
    )


def short(folder: Path) -> str:
    relative = os.path.relpath(folder)
    return relative if len(relative) < len(str(folder)) else str(folder)


def watch(folder: Path, seconds: float, show: Callable[[], tuple[str, bool]]) -> None:
    """Show again and again what `show` returns: a text, and whether anything runs or waits. Until nothing does."""
    while True:
        text, is_live = show()
        print(f"\033[2J\033[H{time.strftime('%H:%M:%S')}  {folder}\n\n{text}", flush=True)
        if not is_live:
            return
        time.sleep(seconds)
