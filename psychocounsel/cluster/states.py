"""State of the runs in a folder, from their own files and from their clusters, and the table of `jobs status`."""

import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from psychocounsel.blocks.conclusions import are_verdicts, verdict_lines, verdict_words
from psychocounsel.blocks.terminal import aligned
from psychocounsel.cluster.attempt_ending import BY_ITS_USER, last_error
from psychocounsel.cluster.base import NoAnswer, QueueState, Usage
from psychocounsel.cluster.starting import by_cluster
from psychocounsel.errors import DONE, UserError, controlled
from psychocounsel.rundir.owner import live_owner
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.results import OF_GATES, is_finished, last_metrics, read_state, read_summary
from psychocounsel.rundir.run import attempts, next_number
from psychocounsel.rundir.run_config import has_config, module_of, read_section
from psychocounsel.rundir.sweep import ListedRun, key_of, runs_of, shards_of
from psychocounsel.storage.files import DamagedFile, readable_time


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
    verdict: str = ""  # the verdicts of its figures, in a few words
    said: Sequence[str] = ()  # the sentences of its verdicts
    usage: Usage | None = None
    queued: bool = True  # False if the run's cluster has no queue to which it could be submitted again
    code: int = 1  # exit code of an ended run; 1 if its last job recorded none

    @property
    def is_live(self) -> bool:
        return self.state in ("running", "pending", "requeued")


def rows(folder: Path, acts: bool = False) -> list[Row]:
    """Return the state of every run in `folder`, which is a sweep's or a run's folder; `acts`: see `by_cluster`.

    Raises:
        UserError: if it contains no runs, or a cluster does not answer.
    """
    return rows_of(runs_of(folder), acts)


def rows_of(listed: Sequence[ListedRun], acts: bool = False) -> list[Row]:
    """Return the states of these runs. Raises like `rows`."""
    queue_states: dict[Path, QueueState] = {}
    unqueued, damage = set[Path](), {run.run_dir: _damage(run) for run in listed}
    for cluster, runs in by_cluster([run for run, reason in damage.items() if not reason], acts):
        queue_states |= cluster.queue_states(runs)
        unqueued.update(() if cluster.has_queue else runs)
    marked = [_marked(run, damage[run.run_dir], queue_states.get(run.run_dir)) for run in listed]
    for row in marked:
        row.queued = row.run_dir not in unqueued
    return marked


def add_usage(run_rows: Sequence[Row]) -> None:
    """Add the resources used by the jobs of ended runs, if their clusters keep accounts."""
    ended = {row.run_dir: row for row in run_rows if not row.is_live and row.state != "damaged" and row.attempts}
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


def _marked(run: ListedRun, reason: str, queue_state: QueueState | None) -> Row:
    """Return the run's row; for a damaged run, a row with the `reason`. Reading the run may find further damage."""
    try:
        if not reason:
            return row_of(run, queue_state)
    except DamagedFile as error:
        reason = str(error)
    return Row(run.index, run.run_dir, run.overrides, "damaged", reason=reason)


_OF_STEPS = ("step", "loss", "step_seconds")  # of a line of metrics.jsonl


def row_of(run: ListedRun, queue_state: QueueState | None) -> Row:
    """Return the state of a run, from its own files and from its cluster. Raises DamagedFile."""
    state, summary, tried = read_state(run.run_dir), read_summary(run.run_dir), attempts(run.run_dir)
    if summary and not summary.get("status"):
        raise DamagedFile(f"{RunDir(run.run_dir).summary}: has no status; restore it")
    row = Row(run.index, run.run_dir, _with_settled(run), step=state.get("step") or 0, total=state.get("total"))
    row.attempts = next_number(run.run_dir) - 1
    row.trains, row.phase = module_of(run.run_dir).endswith(".train"), state.get("phase") or ""
    row.verdict, row.said = verdict_words(summary), [*verdict_lines(summary)]
    last = tried[-1] if tried else {}
    _read_metrics(row)
    if tried:
        row.elapsed = sum(map(_seconds, tried))
        if last.get("started") is not None and last.get("ended") is None:
            until = time.time() if queue_state and queue_state.phase == "running" else state.get("heartbeat") or 0.0
            row.elapsed += max(0.0, until - last["started"])
        row.node = last.get("nodes") or ""
    if queue_state:
        row.task = queue_state.task
    if is_finished(run.run_dir):
        row.state, row.remaining, row.reason, row.code = "finished", None, "", DONE
    elif queue_state and queue_state.is_live:
        _of_live(row, queue_state, last)
    elif summary.get("status") in OF_GATES:  # the cluster shows only the exit code 3 or 4
        row.state, row.remaining, row.reason = summary["status"], None, ""
        row.code = last.get("code") or 1
    elif tried or (queue_state and (queue_state.was_ended or not state)):
        _of_ended(row, queue_state, last)
    elif live_owner(run.run_dir):
        row.state = "running"
    elif state.get("phase") == "failed":  # a run on this machine, which has no record of its attempts
        row.state, row.reason = "failed", last_error(RunDir(run.run_dir).attempt(row.attempts).log(0), only_named=True)
    elif summary:
        row.state = summary.get("status", "damaged")
    elif state:
        row.state = "ended"
    if not are_verdicts(summary.get("verdicts")):
        other = f"the verdicts in {RunDir(run.run_dir).summary} cannot be read, because another version or a hand wrote them"
        row.reason = "; ".join(filter(None, (row.reason, other)))
    return row


def _seconds(attempt: dict[str, Any]) -> float:
    """Return the duration of an attempt; 0 if its record lacks the start or the end."""
    started, ended = attempt.get("started"), attempt.get("ended")
    return 0.0 if started is None or ended is None else float(ended - started)


def _with_settled(run: ListedRun) -> str:
    """Return the run's overrides; values found at its start replace the typed ones."""
    values = {
        key: recipe["value"]
        for key, recipe in (read_section(run.run_dir, "settled") or {}).items()
        if "value" in recipe
    }
    kept = [text for text in run.overrides.split(" ") if key_of(text) not in values]
    return " ".join([*kept, *(f"{key}={value}" for key, value in values.items())])


def _of_live(row: Row, queue_state: QueueState, last: dict[str, Any]) -> None:
    if queue_state.phase == "waiting":
        again = queue_state.job in _jobs_of(last)  # otherwise it was submitted again
        row.state = "requeued" if again else "pending"
        row.reason = "; now ".join(filter(None, (last.get("reason") if again else "", queue_state.reason)))
        row.node, row.remaining = "", None
    else:
        row.state, row.node = "running", queue_state.nodes


def _jobs_of(attempt: dict[str, Any]) -> set[str]:
    """Return the numbers that SLURM gives the job of an attempt: its own, and that of its array."""
    return {attempt[name] for name in ("job", "array") if attempt.get(name)}


def _of_ended(row: Row, queue_state: QueueState | None, last: dict[str, Any]) -> None:
    """Fill the row of an ended run: from the cluster's state if the cluster ended it, else from its record or logs."""
    row.remaining = None
    if queue_state and queue_state.jobs and _jobs_of(last).isdisjoint(queue_state.jobs):
        last = {}  # of an earlier submission
    row.code = last.get("code") or 1
    if queue_state and queue_state.was_ended and last.get("verdict") != "failed":
        cancelled = queue_state.ending == "cancelled"
        row.state = "cancelled" if cancelled else "stopped"
        row.reason = queue_state.ending + (
            f" ({queue_state.reason})" if cancelled and queue_state.reason and not last else ""
        )
    elif queue_state and (error := _died_before_attempt(queue_state, last)):
        row.state, row.code = "failed", 1
        row.reason = f"{last['reason']}; the job ended before its next attempt began: {error}"
    elif last.get("verdict"):
        row.state = "failed" if last["verdict"] in ("failed", "crashed") else "stopped"
        row.reason = last.get("reason") or ""
    elif last:
        attempt = RunDir(row.run_dir).attempt(last["number"])
        error = last_error(*_logs(queue_state), attempt.srun_errors, attempt.output(0))
        row.state = "lost"
        row.reason = (
            f"ended without a record; last error in its logs: {error}"
            if error
            else "killed before it could record the reason"
        )
    elif queue_state and (queue_state.ending or error_in_job_log(queue_state)):
        row.state = "failed"
        row.reason = "never started" + (f" ({queue_state.ending})" if queue_state.ending else "")
        row.reason += f": {error}" if (error := error_in_job_log(queue_state)) else ""
    else:  # SLURM keeps no record of an index that was cancelled before it started
        row.state, row.reason = "cancelled", "never started and is not queued any more"


def _died_before_attempt(queue_state: QueueState, last: dict[str, Any]) -> str:
    """Return why a job that was to make another attempt has ended without one; "" if none was due, or its log is silent."""
    goes_on = last.get("requeued") or queue_state.job not in _jobs_of(last)  # a later segment
    if not goes_on or last.get("verdict") in (None, "failed") or last.get("signal") in BY_ITS_USER:
        return ""
    named = last_error(*_logs(queue_state), only_named=True)
    return named or (queue_state.ending if queue_state.phase == "ended" else "")


def _logs(queue_state: QueueState | None) -> list[Path]:
    return [queue_state.log] if queue_state and queue_state.log else []


def error_in_job_log(queue_state: QueueState) -> str:
    """Return the line of the job's own log that names an error."""
    return last_error(*_logs(queue_state))


def _read_metrics(row: Row) -> None:
    """Read the loss of the last step, and estimate the remaining time by the last steps.

    The first step of a round takes longer, because it writes the replies: then whole rounds count, and before there are
    any, there is no estimate.
    """
    lines = last_metrics(row.run_dir)
    trained = [line for line in lines if all(isinstance(line.get(name), int | float) for name in _OF_STEPS)]
    if trained:
        row.step, row.loss = trained[-1]["step"], trained[-1]["loss"]
        rounds = [place for place, line in enumerate(trained) if "rollout/reward" in line]
        seconds = [line["step_seconds"] for line in (trained[rounds[0] : rounds[-1]] if rounds else trained)]
        if row.total and seconds:
            row.remaining = (row.total - row.step) * (mean(seconds) if rounds else median(seconds))


# Table of `jobs status`.

_USED = ("cpu", "memory", "GPU-hours")  # columns that are omitted if no cluster keeps accounts
_TITLES = (
    *("index", "state", "verdict", "step", "loss", "attempts", "elapsed", "left"),
    *(*_USED, "job", "node", "overrides"),
)
_OF_TRAININGS = ("loss", "left")  # columns that are omitted if no run trains
ENDED = ("failed", "stopped", "lost", "cancelled", "ended")


def shard_rows(run_rows: Sequence[Row]) -> list[Row]:
    """Return the states of the jobs that share the work of unfinished runs."""
    return rows_of(shards_of(row.run_dir for row in run_rows if row.state != "finished"))


def table(run_rows: Sequence[Row], folder: Path, shards: Sequence[Row] = ()) -> str:
    """Return one line per run, the number of runs in each state, and the command to type next."""
    names = ["" if row.index is None else str(row.index) for row in run_rows]
    lines = [*lines_of(run_rows, names, telling(run_rows)), "", *reasons(run_rows, names), counted(run_rows)]
    lines += beside_lines(shards, "shards")
    lines += run_rows[0].said if len(run_rows) == 1 else []
    ended = [row for row in run_rows if row.state in ENDED]
    if any(row.queued for row in ended):
        lines.append(f"to resume them: psychocounsel jobs resubmit {short(folder)}")
    elif ended:
        lines.append(
            f"to resume: the same command again; its overrides are in {short(RunDir(ended[0].run_dir).overrides)}"
        )
    return "\n".join(lines)


def telling(run_rows: Sequence[Row]) -> list[str]:
    """Return the overrides of each run that not all runs share."""
    given = [row.overrides.split(" ") for row in run_rows]
    common = set.intersection(*map(set, given)) if len(given) > 1 else set()
    return [" ".join(text for text in texts if text not in common) for texts in given]


def lines_of(
    run_rows: Sequence[Row], names: Sequence[str], overrides: Sequence[str], first: str = "index"
) -> list[str]:
    """Return the header, and a line per run: name, state and overrides."""
    trains = any(row.trains for row in run_rows)
    titles = (first, *(title if trains or title != "step" else "at" for title in _TITLES[1:]))
    rows = [(name, *_cells(row), text) for name, row, text in zip(names, run_rows, overrides, strict=True)]
    left_out = {*(() if trains else _OF_TRAININGS), *(() if any(row.usage for row in run_rows) else _USED)}
    left_out |= set() if any(row.verdict for row in run_rows) else {"verdict"}
    shown = [column for column, title in enumerate(titles) if title not in left_out]
    return aligned([[line[column] for column in shown] for line in (titles, *rows)])


def reasons(run_rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Return a line for each state and reason of waiting or ended runs, with the runs' names, for instance `0-99, 120`."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, row in zip(names, run_rows, strict=True):
        if row.reason:
            groups.setdefault((row.state, row.reason), []).append(name)
    return [f"{ranges(members)}: {state}: {reason}".removeprefix(": ") for (state, reason), members in groups.items()]


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
        advice = (
            f"the runs have the indices {ranges([*map(str, numbers)])}" if numbers else "the folder contains no run"
        )
        raise UserError(f"no index {min(unknown)}: {advice}")


def counted(run_rows: Sequence[Row]) -> str:
    """Return counts of states and verdicts, for instance "2 finished (undecided), 1 running"."""
    counts = Counter(f"{row.state} ({row.verdict})" if row.verdict else row.state for row in run_rows)
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def beside_lines(others: Sequence[Row], kind: str) -> list[str]:
    """Return a line for each folder of `others`, runs that the table leaves out: their states, and what to type to see them."""
    folders = dict.fromkeys(row.run_dir.parent for row in others)
    counts = {folder: counted([row for row in others if row.run_dir.parent == folder]) for folder in folders}
    return [f"besides, {kind}: {count} (psychocounsel jobs status {short(folder)})" for folder, count in counts.items()]


def _cells(row: Row) -> tuple[str, ...]:
    total = "" if row.total is None else f"/{row.total}"
    at = f"{row.step}{total}" if row.trains or row.step else ""
    return (
        row.state,
        row.verdict,
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
    requested = f" of {usage.requested_memory / 2**30:.1f}" if usage.requested_memory else ""
    memory = f"{usage.memory / 2**30:.1f}{requested} GB" if usage.memory else ""
    return share, memory, f"{usage.gpu_hours:.1f}" if usage.gpu_hours else ""


def short(folder: Path) -> str:
    """Return the shorter of the relative and the absolute path, quoted for a shell."""
    return shlex.quote(min(str(folder), os.path.relpath(folder), key=len))


def watch(folder: Path, seconds: float, show: Callable[[], tuple[str, bool]]) -> None:
    """Print the text of `show` repeatedly until nothing runs or waits; `show` returns the text, and True while something does.

    The cluster may not answer for a while, for instance during a restart of its controller, which jobs survive.
    """
    while True:
        try:
            text, is_live = show()
        except NoAnswer as silence:
            text, is_live = f"{silence}; still waiting", True
        if sys.stdout.isatty():
            controlled(sys.stdout).write("\033[2J\033[H")  # clears the screen
        print(f"{time.strftime('%H:%M:%S')}  {folder}\n\n{text}", flush=True)
        if not is_live:
            return
        time.sleep(seconds)
