"""State of the runs in a folder, from their own files and from their clusters."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from psychocounsel.cluster.base import Standing, Usage
from psychocounsel.cluster.ending.last_words import last_error
from psychocounsel.cluster.kinds import by_cluster
from psychocounsel.rundir.attempts import attempts, next_number
from psychocounsel.rundir.metrics import last_metrics
from psychocounsel.rundir.owner import live_owner
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.run_config import has_config, module_of, read_section
from psychocounsel.rundir.summary import OF_GATES, is_finished, read_state, read_summary
from psychocounsel.rundir.sweep_table import ListedRun, runs_of
from psychocounsel.storage.files import DamagedFile


@dataclass
class Row:
    """A run's row in `jobs status`; `elapsed` and `remaining` in seconds."""

    index: int | None
    run_dir: Path
    overrides: str
    state: str = "not submitted"
    task: str = ""
    trains: bool = True
    phase: str = ""  # phase of a run that does not train
    step: int = 0
    total: int | None = None
    loss: float | None = None
    attempts: int = 0
    elapsed: float | None = None
    remaining: float | None = None
    node: str = ""
    reason: str = ""
    usage: Usage | None = None

    @property
    def is_live(self) -> bool:
        return self.state in ("running", "pending", "requeued")


def rows(folder: Path) -> list[Row]:
    """Return the state of every run in `folder`, which is a sweep's or a run's folder.

    Raises:
        UserError: if it contains no runs, or a cluster does not answer.
    """
    return rows_of(runs_of(folder))


def rows_of(listed: Sequence[ListedRun]) -> list[Row]:
    """Return the states of these runs. Raises like `rows`."""
    standings: dict[Path, Standing] = {}
    for cluster, runs in by_cluster(run.run_dir for run in listed if not _damage(run)):
        standings |= cluster.standings(runs)
    return [_marked(run, standings.get(run.run_dir)) for run in listed]


def add_usage(found: Sequence[Row]) -> None:
    """Add the resources used by the jobs of ended runs, if their clusters keep accounts."""
    ended = {row.run_dir: row for row in found if not row.is_live and row.state != "damaged" and row.attempts}
    for cluster, runs in by_cluster(ended):
        for run, usage in cluster.usage(runs).items():
            if run in ended:
                ended[run].usage = usage


def _damage(run: ListedRun) -> str:
    """Return the error of the run's configuration; "" if it is valid."""
    try:
        if read_section(run.run_dir, "cluster") is None and has_config(run.run_dir):
            return f"{RunDir(run.run_dir).config}: is not a run's configuration; restore it"
    except DamagedFile as error:
        return str(error)
    return ""


def _marked(run: ListedRun, here: Standing | None) -> Row:
    """Return the run's row; for a damaged run, a row that says so."""
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
            until = time.time() if here and here.phase == "running" else state.get("heartbeat", 0.0)
            row.elapsed += max(0.0, until - last["started"])
        row.node = last.get("nodes") or ""
    if here:
        row.task = here.task
    if is_finished(run.run_dir):
        row.state, row.remaining, row.reason = "finished", None, ""
    elif here and here.is_live:
        _of_live(row, here, last)
    elif summary.get("status") in OF_GATES:  # the cluster shows only the exit code 3 or 4
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
    """Return the run's overrides; values found at its start replace the typed ones."""
    found = {
        key: each["value"] for key, each in (read_section(run.run_dir, "settled") or {}).items() if "value" in each
    }
    kept = [text for text in run.overrides.split(" ") if text.lstrip("+").partition("=")[0] not in found]
    return " ".join([*kept, *(f"{key}={value}" for key, value in found.items())])


def _of_live(row: Row, here: Standing, last: dict[str, Any]) -> None:
    if here.phase == "waiting":
        again = bool(last) and _job_of(here.task) in (
            last.get("job"),
            last.get("array"),
        )  # otherwise it was submitted again
        row.state = "requeued" if again else "pending"
        row.reason = "; now ".join(filter(None, (last.get("reason") if again else "", here.reason)))
        row.node, row.remaining = "", None
    else:
        row.state, row.node = "running", here.nodes


def _job_of(task: str) -> str:
    return task.partition("_")[0]


def _of_ended(row: Row, here: Standing | None, last: dict[str, Any]) -> None:
    """Fill the row of an ended run: from the cluster's state if the cluster ended it, else from its record or logs."""
    row.remaining = None
    if here and here.was_ended and last.get("verdict") != "failed":
        cancelled = here.ending == "cancelled"
        row.state = "cancelled" if cancelled else "stopped"
        row.reason = here.ending + (f" ({here.reason})" if cancelled and here.reason and not last else "")
    elif last.get("verdict"):
        row.state = "failed" if last["verdict"] in ("failed", "crashed") else "stopped"
        row.reason = last["reason"]
    elif last:
        attempt = RunDir(row.run_dir).attempt(last["number"])
        said = last_error(*_logs(here), attempt.srun_errors, attempt.output(0))
        row.state = "lost"
        row.reason = (
            f"ended without a record; last error in its logs: {said}"
            if said
            else "killed before it could record the reason"
        )
    elif here and (here.ending or said_by_job(here)):
        row.state = "failed"
        row.reason = "never started" + (f" ({here.ending})" if here.ending else "")
        row.reason += f": {said}" if (said := said_by_job(here)) else ""
    else:  # SLURM keeps no record of an index that was cancelled before it started
        row.state, row.reason = "cancelled", "never started and is not queued any more"


def _logs(here: Standing | None) -> list[Path]:
    return [here.log] if here and here.log else []


def said_by_job(here: Standing) -> str:
    """Return the line of the job's own log that names an error."""
    return last_error(*_logs(here))


def _read_metrics(row: Row) -> None:
    """Read the loss of the last step, and estimate the remaining time by the median of the last steps."""
    trained = [line for line in last_metrics(row.run_dir) if {"step", "loss", "step_seconds"} <= line.keys()]
    if trained:
        row.step, row.loss = trained[-1]["step"], trained[-1]["loss"]
        if row.total:
            row.remaining = (row.total - row.step) * median(line["step_seconds"] for line in trained)
