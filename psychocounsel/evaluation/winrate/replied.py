"""Counts of the contestants' replies.

A contestant that gives no reply to hard speeches is only compared on easy ones; the counts make this visible.
"""

from __future__ import annotations

from typing import Any

from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.tables import rows_of

_READ = ("speech", "setting", "length_limit", "text", "outcome")


def replies_of_contestants(files: EvaluationDir, include_near: bool) -> dict[int | None, dict[str, dict[str, Any]]]:
    """Return counts by length limit and setting: `wanted` replies, `without_text` by outcome, and `over_limit`.

    Without `include_near`, speeches that are nearly the same as training data are not counted.
    """
    speeches = rows_of(files.speeches, ["speech", "near_training"])
    judged = {row["speech"] for row in speeches if include_near or not row["near_training"]}
    found: dict[int | None, dict[str, dict[str, Any]]] = {}
    for row in rows_of(files.replies, _READ):
        if row["speech"] not in judged:
            continue
        of_limit = found.setdefault(row["length_limit"], {})
        counts = of_limit.setdefault(row["setting"], {"wanted": 0, "without_text": {}, "over_limit": 0})
        counts["wanted"] += 1
        if not row["text"]:
            counts["without_text"][row["outcome"]] = counts["without_text"].get(row["outcome"], 0) + 1
        elif row["length_limit"] and len(row["text"].split()) > row["length_limit"]:
            counts["over_limit"] += 1
    return found
