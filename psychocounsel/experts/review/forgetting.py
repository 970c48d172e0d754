"""Removal of speeches from a review: their items, the answers, and their places in the experts' order."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.experts.review.log import PRIVATE
from psychocounsel.rundir.paths import ReviewDir
from psychocounsel.storage.files import json_lines, read_mapping, write_atomically, write_json
from psychocounsel.storage.locks import holder


def refuse_served(files: ReviewDir) -> None:
    """Refuse to change a review while its page is served.

    Raises:
        UserError: naming the process.
    """
    if other := holder(files.lock):
        raise UserError(
            f"{files.path}: process {other['pid']} on {other['host']} is serving this review; stop it, then remove speeches"
        )


def forget_speeches(files: ReviewDir, is_removed: Callable[[str], bool]) -> int:
    """Remove the items of removed speeches with all their answers. Return the number of removed items.

    Items are removed last, so that the next removal can finish one that was killed.

    Raises:
        UserError: if the review's page is being served.
    """
    if not files.items.exists():
        return 0
    refuse_served(files)
    gone = {row["item"] for row in _rows(files.items) if is_removed(row["speech"])}
    if not gone:
        return 0
    plan = read_mapping(files.plan)
    for name, entries in plan.get("shown", {}).items():
        plan["shown"][name] = [entry for entry in entries if entry[0] not in gone]
    files.experts.unlink(missing_ok=True)  # written again when the page is served
    _keep(files.answers, lambda row: row["item"] not in gone)
    _keep(files.events, lambda row: row.get("item") not in gone)
    if plan:
        write_json(files.plan, plan, mode=PRIVATE)
    _keep(files.items, lambda row: row["item"] not in gone)
    return len(gone)


def _keep(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    if path.exists():
        kept = json_lines(row for row in _rows(path) if wanted(row))
        write_atomically(path, kept, mode=PRIVATE)


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows. A last line without its end is skipped: its writer was killed."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
