"""Runner of the rows, each in its own process, so that a crash or hang does not affect the others, and their results as text."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.check_rows import Row
from benchmarks.training_runs import ROOT

PASSED, MISSED, FAILED, NOT_RUN = "passed", "missed", "FAILED", "not run"
_PROBE_SECONDS = 120


@dataclass(frozen=True)
class RowResult:
    """Result of a row: PASSED, MISSED (below a target), FAILED or NOT_RUN. `figure` is the measured value or the reason."""

    name: str
    about: str
    result: str
    figure: str
    goal: str
    seconds: float
    values: dict[str, Any]


def what_is_here() -> dict[str, Any]:
    """Return versions and GPUs. Another process reads them, so that this process occupies no GPU memory."""
    command = [sys.executable, "-m", "benchmarks.gpu_check.one_row", "probe"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_PROBE_SECONDS)
    if done.returncode:
        sys.exit(f"torch cannot be imported here: {_last_line(done.stderr)}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def results(rows: Sequence[Row], here: dict[str, Any], arguments: Sequence[str], ends: float) -> Iterator[RowResult]:
    """Yield the results of the rows. A row is skipped if too little time is left until `ends` (on time.monotonic's clock)."""
    for row in rows:
        why = missing(row, here)
        left = ends - time.monotonic()
        if not why and left < min(60, row.seconds):
            why = "no time is left: run it alone with --only, or give more time with --minutes"
        if why:
            yield RowResult(row.name, row.about, NOT_RUN, why, row.goal, 0.0, {})
        else:
            yield run(row, [sys.executable, "-m", "benchmarks.gpu_check.one_row", row.function, *arguments], left)


def missing(row: Row, here: dict[str, Any]) -> str:
    """Return the requirement of `row` that this machine lacks, or "" if it can run."""
    if len(here["gpus"]) < row.gpus:
        return f"needs {row.gpus} GPUs" if here["gpus"] else "no GPU that torch can use"
    absent = [package for package in row.packages if not here["packages"].get(package)]
    return f"{absent[0]} is not installed" if absent else ""


def run(row: Row, command: Sequence[str], most_seconds: float) -> RowResult:
    """Run `command` in its own session, which is killed when it ends. Its last line of output must be a JSON object."""
    started, seconds = time.monotonic(), min(row.seconds, most_seconds)
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=errors, start_new_session=True)
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
        took = time.monotonic() - started
        said.seek(0)
        errors.seek(0)
        result, figure, values = _read(code, said.read(), errors.read(), seconds)
    if result == MISSED and not row.is_target:
        result = FAILED
    return RowResult(row.name, row.about, result, figure, row.goal, took, values)


def _read(code: int | None, said: str, errors: str, seconds: float) -> tuple[str, str, dict[str, Any]]:
    if code is None:
        return FAILED, f"took more than {seconds:.0f} s", {}
    if code:
        return FAILED, _last_line(errors) or f"ended with exit code {code}", {"errors": errors[-4000:]}
    found = json.loads(said.splitlines()[-1])
    return found["result"], found["figure"], found["values"]


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else ""


def _end(process: subprocess.Popen[Any]) -> None:
    """Kill the process and all its descendants."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def scratch(folder: Path | None) -> Any:
    """Return a temporary folder for models and runs, removed at the end."""
    return tempfile.TemporaryDirectory(prefix="psychocounsel-gpu-check-", dir=folder)


# Results as lines for a terminal, and as a Markdown table for RESULTS.md

_PACKAGES = ("torch", "deepspeed", "transformers", "vllm", "liger_kernel", "triton")


def heading(report: dict[str, Any]) -> str:
    """Return one line with GPUs and versions."""
    gpus = [f"{gpu['name']} ({gpu['gb']:g} GB)" for gpu in report["gpus"]] or ["no GPU that torch can use"]
    versions = [f"{name} {report['packages'][name]}" for name in _PACKAGES if report["packages"].get(name)]
    return f"{', '.join(gpus)}; Python {report['python']}, {', '.join(versions)}"


def line(row: dict[str, Any]) -> str:
    return f"{row['name']:<13}{row['result']:<9}{row['seconds']:>5.0f} s  {row['about']}: {row['figure']} (goal: {row['goal']})"


def markdown(report: dict[str, Any]) -> str:
    """Return one sentence that describes the machine, and a table with one row for each check."""
    lines = [
        f"{report['date'][:10]}: {heading(report)}.",
        "",
        "| check | result | figure | goal |",
        "|---|---|---|---|",
    ]
    for row in report["rows"]:
        cells = (row["about"], row["result"], row["figure"], row["goal"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
