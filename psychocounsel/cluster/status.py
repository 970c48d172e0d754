"""What became of the runs of a folder, from our own files and one call of squeue."""

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from psychocounsel.cluster.slurm import scheduler
from psychocounsel.cluster.slurm.standings import Standing, standings
from psychocounsel.cluster.slurm.units import readable_time
from psychocounsel.errors import UserError
from psychocounsel.rundir import submissions
from psychocounsel.rundir.attempts import attempts, next_number
from psychocounsel.storage.files import read_json
from psychocounsel.storage.locks import holder

_TAIL_BYTES = 1 << 15
_FINAL = {
    "CANCELLED": "cancelled",
    "TIMEOUT": "timed out",
    "NODE_FAIL": "node failed",
    "OUT_OF_MEMORY": "out of memory",
}
_FINAL |= {"PREEMPTED": "preempted", "DEADLINE": "past its deadline", "BOOT_FAIL": "node failed"}


@dataclass
class Row:
    """A run as `jobs status` shows it; `elapsed` and `remaining` in seconds."""

    index: int
    run_dir: Path
    overrides: str
    state: str = "not submitted"
    task: str = ""
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


def runs_of(folder: Path) -> list[tuple[int, Path, str]]:
    """Index, folder and overrides of each run of a sweep, or of the one run.

    Raises:
        UserError: if the folder is neither.
    """
    table = folder / "sweep.jsonl"
    if table.exists():
        rows = list(map(json.loads, table.read_text().splitlines()))
        return [(row["index"], folder / row["run_dir"], " ".join(row["overrides"])) for row in rows]
    if (folder / "job.json").exists():
        given = folder / "overrides.txt"
        return [(0, folder, " ".join(given.read_text().split("\n")).strip() if given.exists() else "")]
    raise UserError(f"{folder}: is neither a run (it has no job.json) nor a sweep (no sweep.jsonl)")


def rows(folder: Path) -> list[Row]:
    """How every run below `folder` stands.

    Raises:
        UserError: if it holds no runs, or SLURM does not answer.
    """
    listed = runs_of(folder)
    place = folder if (folder / "sweep.jsonl").exists() else submissions.home_of(folder)
    standing = standings(place) if submissions.read(place) and shutil.which("squeue") else {}
    return [_row(index, run, overrides, standing.get(run)) for index, run, overrides in listed]


def _row(index: int, run_dir: Path, overrides: str, here: Standing | None) -> Row:
    state = read_json(run_dir / "state.json") or {}
    summary = read_json(run_dir / "summary.json") or {}
    row = Row(index, run_dir, overrides, step=state.get("step", 0), total=state.get("total"))
    tried = attempts(run_dir)
    row.attempts = next_number(run_dir) - 1
    last = tried[-1] if tried else {}
    _read_metrics(row)
    if tried:
        row.elapsed = sum(each["ended"] - each["started"] for each in tried if "ended" in each)
        if "ended" not in last:
            row.elapsed += max(0.0, state.get("heartbeat", 0.0) - last["started"])
        row.node = last.get("nodes") or ""
    if here:
        row.task = here.task.name if here.task else here.record.task_name(here.index)
    if summary.get("status") == "finished":
        row.state, row.remaining, row.reason = "finished", None, ""
    elif here and here.is_live:
        _of_live(row, here.task, last)
    elif tried or here:
        _of_ended(row, here, last)
    elif holder(run_dir / "owner.json"):
        row.state = "running"
    elif summary:
        row.state = summary["status"]
    elif state:
        row.state = "ended"
    return row


def _of_live(row: Row, task: scheduler.Task | None, last: dict[str, Any]) -> None:
    assert task is not None
    if task.state == "PENDING":
        row.state = "requeued" if row.attempts else "pending"
        row.reason = last.get("reason") or task.reason if row.attempts else task.reason
        row.node, row.remaining = "", None
    else:
        row.state, row.node = "running", task.nodes
        row.elapsed = row.elapsed or task.elapsed


def _of_ended(row: Row, here: Standing | None, last: dict[str, Any]) -> None:
    """Our own words count, and SLURM's where a run could write none."""
    row.remaining = None
    said = here.task.state if here and here.task else ""
    if said in _FINAL and last.get("verdict") != "failed":
        row.state = "cancelled" if said == "CANCELLED" else "stopped"
        row.reason = _FINAL[said] + (
            f" ({here.task.reason})" if here and here.task and said == "CANCELLED" and not last else ""
        )
    elif last.get("verdict"):
        row.state = "failed" if last["verdict"] in ("failed", "crashed") else "stopped"
        row.reason = last["reason"]
    elif last:
        row.state, row.reason = "lost", "killed before it could say why"
    elif said:
        row.state, row.reason = "failed", f"never began ({said.lower()})"
    else:  # SLURM keeps no record of an index that was cancelled before it began
        row.state, row.reason = "cancelled", "never began, and is not in the queue any more"


def _read_metrics(row: Row) -> None:
    """Loss of the last step, and the time that is left by the median of the last steps."""
    file = row.run_dir / "metrics.jsonl"
    if not file.exists():
        return
    lines = []
    with open(file, "rb") as handle:
        handle.seek(max(0, file.stat().st_size - _TAIL_BYTES))
        for text in handle.read().splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue  # cut short, at either end
    trained = [line for line in lines if isinstance(line, dict) and "step_seconds" in line]
    if trained:
        row.step, row.loss = trained[-1]["step"], trained[-1]["loss"]
        if row.total:
            row.remaining = (row.total - row.step) * median(line["step_seconds"] for line in trained)


# -- as a table

_TITLES = ("index", "state", "step", "loss", "attempts", "elapsed", "left", "job", "node", "overrides")


def table(found: Sequence[Row], folder: Path) -> str:
    """One line a run, then how many are in which state, and what to type."""
    given = [row.overrides.split(" ") for row in found]
    common = set.intersection(*map(set, given)) if len(given) > 1 else set()
    telling = [" ".join(text for text in each if text not in common) for each in given]
    cells = [_TITLES, *((*_cells(row), text) for row, text in zip(found, telling, strict=True))]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_TITLES) - 1)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(line, [*widths, 0], strict=True)).rstrip() for line in cells
    ]
    counts: dict[str, int] = {}
    for row in found:
        counts[row.state] = counts.get(row.state, 0) + 1
    lines.append("")
    lines += [f"{row.index}: {row.state}: {row.reason}" for row in found if row.reason]
    lines.append(", ".join(f"{count} {state}" for state, count in counts.items()))
    if any(row.state in ("failed", "stopped", "lost", "cancelled", "ended") for row in found):
        lines.append(f"go on with them: python -m psychocounsel.jobs resubmit {_short(folder)}")
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    total = "" if row.total is None else f"/{row.total}"
    return (
        str(row.index),
        row.state,
        f"{row.step}{total}" if row.attempts else "",
        "" if row.loss is None else f"{row.loss:.4f}",
        str(row.attempts or ""),
        "" if row.elapsed is None else readable_time(row.elapsed),
        "" if row.remaining is None or row.state != "running" else readable_time(row.remaining),
        row.task,
        row.node,
    )


def _short(folder: Path) -> str:
    relative = os.path.relpath(folder)
    return relative if len(relative) < len(str(folder)) else str(folder)


def watch(folder: Path, seconds: float) -> None:
    """Show the table again and again until nothing runs or waits."""
    while True:
        found = rows(folder)
        print(f"\033[2J\033[H{time.strftime('%H:%M:%S')}  {folder}\n\n{table(found, folder)}", flush=True)
        if not any(row.is_live for row in found):
            return
        time.sleep(seconds)
