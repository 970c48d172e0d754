"""Attempts of a run: when each began and ended, and how long it ran, including failed ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from psychocounsel.rundir.attempts import attempts
from psychocounsel.rundir.paths import RunDir

Attempt = dict[str, Any]


def run_attempts(
    run_dir: Path,
    lines: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any],
    state: Mapping[str, Any],
    summary: Mapping[str, Any],
) -> list[Attempt]:
    """Return one dictionary per attempt, oldest first.

    Returns:
        number; begun and ended (seconds since 1970, or None if unknown); seconds it ran, at least those of its steps;
        processes; gpus (number used); verdict: finished, stopped, failed, crashed, or "" if none was recorded.

    SLURM jobs record start and end. Otherwise the summary holds the duration of the last attempt, and an earlier one
    lasted from the creation of its log folder until the last write to its logs.
    """
    files = RunDir(run_dir)
    recorded = {each["number"]: each for each in attempts(run_dir)}
    in_steps = _step_seconds(lines)
    numbers = sorted({*files.attempt_numbers(), *in_steps})
    processes = int(environment.get("processes") or 1)
    found = []
    for number in numbers:
        begun, ended = _recorded(recorded[number], state) if number in recorded else _of_logs(files, number)
        if number not in recorded and number == numbers[-1] and isinstance(summary.get("seconds"), int | float):
            begun = None if ended is None else ended - summary["seconds"]
        lasted = 0.0 if begun is None or ended is None else ended - begun
        verdict = recorded.get(number, {}).get("verdict") or (
            summary.get("status", "") if number == numbers[-1] else ""
        )
        about: Attempt = {"number": number, "begun": begun, "ended": ended, "verdict": verdict, "processes": processes}
        about |= {
            "seconds": max(lasted, in_steps.get(number, 0.0)),
            "gpus": processes if environment.get("gpus") else 0,
        }
        found.append(about)
    return found


def _step_seconds(lines: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Return the sum of step seconds in the metrics, by attempt."""
    found: dict[int, float] = {}
    for line in lines:
        number = line.get("attempt")
        if isinstance(number, int):
            found[number] = found.get(number, 0.0) + (line.get("step_seconds") or 0.0)
    return found


def _recorded(record: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return start and end. For an attempt that was killed or is still running, the end is the run's last heartbeat."""
    begun = record.get("started")
    if "ended" in record:
        return begun, record["ended"]
    beat = state.get("heartbeat") if state.get("attempt") == record["number"] else None
    return begun, beat if beat is not None and begun is not None and beat >= begun else None


def _of_logs(files: RunDir, number: int) -> tuple[float | None, float | None]:
    """Return start and end by the log files: the folder is created at the start, the last line is written at the end.

    A copied folder has other times: the end may then be before the start, and both are returned as None.
    """
    folder = files.attempt(number)
    if not folder.path.is_dir():
        return None, None
    begun = folder.path.stat().st_mtime
    written = [(folder.path / name).stat().st_mtime for name in folder.output_names()]
    ended = max(written, default=begun)
    return (begun, ended) if ended >= begun else (None, None)
