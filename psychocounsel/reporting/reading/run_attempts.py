"""The attempts at a run: when each began and ended, and how long it worked, failed ones included."""

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
    """One dictionary an attempt, oldest first.

    Returns:
        number; begun and ended, seconds since 1970, or None where nothing says so; seconds, that it worked: at least those of
        its steps; processes; gpus, how many it used; verdict: finished, stopped, failed, crashed, or "" where nobody wrote one.

    SLURM's job writes down begin and end. Elsewhere the summary says how long the last attempt worked, and earlier ones lasted
    from the making of their logs until the last word in them.
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
    """By attempt, the seconds of those of its steps that stand in the metrics."""
    found: dict[int, float] = {}
    for line in lines:
        number = line.get("attempt")
        if isinstance(number, int):
            found[number] = found.get(number, 0.0) + (line.get("step_seconds") or 0.0)
    return found


def _recorded(record: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Begin and end; of an attempt that was killed, or runs still, the run's last sign of life."""
    begun = record.get("started")
    if "ended" in record:
        return begun, record["ended"]
    beat = state.get("heartbeat") if state.get("attempt") == record["number"] else None
    return begun, beat if beat is not None and begun is not None and beat >= begun else None


def _of_logs(files: RunDir, number: int) -> tuple[float | None, float | None]:
    """The folder of an attempt's logs is made when it begins, and the last word in them is written when it ends.

    A copy of the folder has other times: then the end comes before the begin, and nothing is known.
    """
    folder = files.attempt(number)
    if not folder.path.is_dir():
        return None, None
    begun = folder.path.stat().st_mtime
    written = [(folder.path / name).stat().st_mtime for name in folder.output_names()]
    ended = max(written, default=begun)
    return (begun, ended) if ended >= begun else (None, None)
