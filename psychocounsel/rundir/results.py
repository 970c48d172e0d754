"""Files that a run reports in: `metrics.jsonl` (a line per step), `state.json` (progress) and `summary.json` (result)."""

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from psychocounsel.rundir.paths import RunDir
from psychocounsel.storage.files import DamagedFile, parse_json, read_mapping, write_atomically, write_json

# Forms of values in a run's own files, which another version or a hand may have written otherwise

Forms = Mapping[str, Callable[[Any], bool]]  # by key: True for a value that readers can use


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_metrics(value: Any) -> bool:
    """Return True for figures by name; those of a training are three such mappings, or null without an evaluation."""
    if not isinstance(value, dict):
        return False
    return all(isinstance(value[stage], dict | None) for stage in ("before", "best", "last") if stage in value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


STATE: Forms = {
    "phase": is_text,
    "step": _is_count,
    "total": _is_count,
    "heartbeat": is_number,
    "attempt": _is_count,
}
SUMMARY: Forms = {
    "status": is_text,
    "metrics": _are_metrics,
    "seconds": is_number,
    "slices": lambda value: isinstance(value, dict),
    "doubts": _are_texts,
    "files": _are_texts,
}
ATTEMPT: Forms = {
    **dict.fromkeys(("verdict", "reason", "job", "array", "signal", "nodes"), lambda value: isinstance(value, str)),
    **dict.fromkeys(("started", "ended"), is_number),
    **dict.fromkeys(("code", "step"), _is_count),
}


def strange(content: Mapping[str, Any], forms: Forms) -> list[str]:
    """Return the keys whose values have another form. A value may be null."""
    return [key for key, fits in forms.items() if content.get(key) is not None and not fits(content[key])]


def read_formed(path: Path, forms: Forms) -> dict[str, Any]:
    """Return the mapping in a JSON file, or {} if the file does not exist.

    Raises:
        DamagedFile: if the file is no mapping, or a value has another form.
    """
    content = read_mapping(path)
    if keys := strange(content, forms):
        raise DamagedFile(
            f"{path}: {', '.join(keys)} cannot be read, because another version or a hand wrote it; restore it"
        )
    return content


# Metrics: one line per step, even after kills and resumes

_TAIL_BYTES = 1 << 15


class MetricsLog:
    """Appends lines; opening the log at a step removes the lines after that step, which will be written again."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.earlier = [line for line in read_metrics(path) if line["step"] <= step]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in self.earlier))
        self.file = open(path, "a", 1)

    def write(self, line: dict[str, Any]) -> None:
        self.file.write(json.dumps(line) + "\n")

    def sync(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file up to the first damaged line, usually the last, which a kill cut short."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            line = parse_json(text)
            if not _is_count(line["step"]):
                break
        except (ValueError, TypeError, KeyError, RecursionError):
            break
        lines.append(line)
    return lines


def last_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Return the last lines of a run's metrics, oldest first: some dozens, read quickly even from a long file."""
    path, lines = RunDir(run_dir).metrics, []
    if not path.exists():
        return []
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        for text in file.read().splitlines():
            try:
                lines.append(parse_json(text))
            except (ValueError, RecursionError):
                continue  # cut short at either end
    return [line for line in lines if isinstance(line, dict)]


# Summary and progress, and copies of them while a command resumes the run

FINISHED = "finished"
REFUSED, UNDECIDED = "refused", "undecided"  # verdicts that end an audit or a gate, with exit code 3 or 4
OF_GATES = (REFUSED, UNDECIDED)
BUDGET_SPENT = "budget spent"  # status of a run that ended with exit code 3 because its `budget` is spent

_SMALLER = re.compile(
    r"(ece|brier|kl|perplexity|repetition|echo|recital|unfinished|limits_exceeded|limits_undecided|reward_drop|missed|under_triage|over_escalation|hard_flags)"
    r"(_low|_high)?"
)
_LARGER = re.compile(
    r"(accuracy|auc|margin|win_rate|reward|reward_mean|reward_(?!std).+|accuracy_.+|pairs)(_low|_high)?"
)


def is_finished(run_dir: Path) -> bool:
    """Return True if the run reached its end and has not been made longer since."""
    return read_summary(run_dir).get("status") == FINISHED


def gate_verdict(run_dir: Path) -> str:
    """Return the verdict of an ended audit or gate, `refused` or `undecided`; "" for all other runs.

    Such a run has figures and did not fail. It is not finished, because later stages wait for a gate that passed.
    """
    status = read_summary(run_dir).get("status")
    return str(status) if status in OF_GATES else ""


def limit_reached(run_dir: Path) -> str:
    """Return which limit ended a run with exit code 3: `refused` (a gate), `budget spent`, or `guarded` (a `guard` limit)."""
    status = read_summary(run_dir).get("status")
    return str(status) if status in (REFUSED, BUDGET_SPENT) else "guarded"


def read_summary(run_dir: Path) -> dict[str, Any]:
    """Return `summary.json`, or {} if it does not exist yet. Raises DamagedFile like `read_formed`."""
    return read_formed(RunDir(run_dir).summary, SUMMARY)


def write_summary(run_dir: Path, status: str, **content: Any) -> None:
    """Write `summary.json`: the status (`finished`, `stopped`, a gate's verdict, ...), `metrics`, and further facts."""
    write_json(RunDir(run_dir).summary, {"status": status, **content})
    accept(run_dir)


def keep_earlier(run_dir: Path) -> None:
    """Copy the configuration, overrides, summary and state to earlier.json, if the run has a checkpoint or a summary.

    An existing copy stays: it was made by a command that was killed before the run accepted its settings.
    """
    files = RunDir(run_dir)
    if (files.latest_checkpoint.exists() or files.summary.exists()) and not files.earlier.exists():
        kept = [file for file in (files.config, files.overrides, files.summary, files.state) if file.exists()]
        write_json(files.earlier, {file.name: file.read_text(encoding="utf-8") for file in kept})


def accept(run_dir: Path) -> None:
    """Delete the copies, because the run goes on or has ended with its new settings."""
    RunDir(run_dir).earlier.unlink(missing_ok=True)


def put_back(run_dir: Path) -> None:
    """Restore the copied files of a run whose new settings were refused; does nothing without copies."""
    files = RunDir(run_dir)
    names = {file.name for file in (files.config, files.overrides, files.summary, files.state)}
    for name, text in read_mapping(files.earlier).items():
        if name in names and isinstance(text, str):
            write_atomically(run_dir / name, text)
    files.earlier.unlink(missing_ok=True)


def objective(run_dir: Path, metric: str) -> float | None:
    """Return the run's value of `metric`, or None; for a training, the value at the best evaluation."""
    metrics = read_summary(run_dir).get("metrics") or {}
    value = (metrics["best"] or {}).get(metric) if "best" in metrics else metrics.get(metric)
    return value if is_number(value) else None


def objective_interval(run_dir: Path, metric: str) -> str:
    """Return ` (LOW to HIGH)`, the 95 % interval of `metric` where `objective` reads its value; "" without one."""
    low, high = (objective(run_dir, f"{metric}_{end}") for end in ("low", "high"))
    return "" if low is None or high is None else f" ({low:.4g} to {high:.4g})"


def smaller_is_better(metric: str, mode: str) -> bool:
    """Return True if the smallest value of a metric is the best; `mode` is min, max, or auto (by the metric's name)."""
    return (known_mode(metric) if mode == "auto" else mode) == "min"


def known_mode(metric: str) -> str | None:
    """Return "min" or "max" for the best value of a metric, by its name; None for an unknown name."""
    name = metric.rpartition("/")[2]
    if "loss" in name or _SMALLER.fullmatch(name):
        return "min"
    return "max" if _LARGER.fullmatch(name) else None


def read_state(run_dir: Path) -> dict[str, Any]:
    """Return `state.json`, or {} before the first process has begun. Raises DamagedFile like `read_formed`."""
    return read_formed(RunDir(run_dir).state, STATE)


def write_state(run_dir: Path, attempt: int, phase: str, step: int, total: int | None) -> None:
    """Write `state.json`, with the time as its heartbeat [seconds since 1970]."""
    state = {"attempt": attempt, "phase": phase, "step": step, "total": total, "heartbeat": time.time()}
    write_json(RunDir(run_dir).state, state, durable=False)
