"""Status of a run by its own files alone, without asking the cluster."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from psychocounsel.reporting.material import AUDIT, EVALUATION
from psychocounsel.rundir.owner import live_owner
from psychocounsel.rundir.summary import FINISHED, OF_GATES

RUNNING, STOPPED, FAILED, NOT_RUN = "running", "stopped", "failed", "not run"


def run_status(
    kind: str,
    run_dir: Path,
    state: Mapping[str, Any],
    summary: Mapping[str, Any],
    tried: Sequence[Mapping[str, Any]],
    problems: list[str],
) -> str:
    """Return the status of the run. Doubts about how it ended are added to `problems`."""
    if summary.get("status") == FINISHED:
        return FINISHED
    if _is_live(run_dir):
        return RUNNING
    if kind in (AUDIT, EVALUATION) and summary.get("status") in OF_GATES:
        return str(summary["status"])
    verdict = tried[-1]["verdict"] if tried else ""
    if FAILED in (verdict, summary.get("status")) or verdict == "crashed":
        return FAILED
    if summary.get("status") not in (None, STOPPED):
        problems.append(f"ended with the status `{summary['status']}`")
        return STOPPED
    if not (summary or state or tried):
        return NOT_RUN
    if not summary and not verdict and state.get("phase") != STOPPED:
        total = "" if state.get("total") is None else f" of {state['total']}"
        at = f"{state.get('phase', 'beginning')}, step {state.get('step', 0)}{total}"
        problems.append(f"its process ended without recording why ({at})")
    return STOPPED


def _is_live(run_dir: Path) -> bool:
    try:
        return live_owner(run_dir) is not None
    except OSError:  # without a writable folder, the age of a lock cannot be measured
        return False
