"""Counts of the judges' verdicts, and warnings about unreliable verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.tables import rows_of

_BIAS = 0.2  # a judge gets a warning if a larger share of its verdicts contradict each other


def verdict_counts(files: EvaluationDir) -> dict[str, dict[str, dict[str, int]]]:
    """Return `verdicts`, the number of calls by judge and outcome, and `answered_by`.

    `answered_by`: the number of answers by judge and by the model name that the server gave.
    """
    outcomes: dict[str, Counter[str]] = {}
    models: dict[str, Counter[str]] = {}
    for row in rows_of(files.verdicts, ["judge", "outcome", "model"]):
        outcomes.setdefault(row["judge"], Counter())[row["outcome"]] += 1
        if row["model"]:
            models.setdefault(row["judge"], Counter())[row["model"]] += 1
    return {
        "verdicts": {name: dict(counts) for name, counts in outcomes.items()},
        "answered_by": {name: dict(counts) for name, counts in models.items()},
    }


def winrate_warnings(figures: dict[str, Any]) -> Iterator[str]:
    """Yield warnings about judges with a strong position bias, and about servers that changed their model."""
    for name, models in figures["answered_by"].items():
        if len(models) > 1:
            yield (
                f"warning: the server of judge {name} answered as several models ({', '.join(sorted(models))}); only verdicts "
                "of the most frequent model are scored"
            )
    for variant in figures["variants"]:
        limit = variant["length_limit"]
        where = f" (replies of at most {limit} words)" if limit is not None else ""
        for name, bias in variant["judges"].items():
            share = bias["inconsistent"]["value"]
            if share is not None and share > _BIAS:
                yield f"warning: judge {name} has a strong position bias: the order of the replies changes its verdicts{where}"
