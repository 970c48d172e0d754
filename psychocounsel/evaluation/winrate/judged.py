"""How far judges gave verdicts, and warnings of verdicts that say less than they seem."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.tables import rows_of

_BIAS = 0.2  # share of contradicting verdicts from which on a judge is warned of


def verdict_counts(files: EvaluationDir) -> dict[str, dict[str, dict[str, int]]]:
    """By judge: `verdicts`, the calls by outcome, and `answered_by`, the answers by the model that the server named."""
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
    """Lines for judges that follow the order of the replies, and for servers that changed their model."""
    for name, models in figures["answered_by"].items():
        if len(models) > 1:
            yield (
                f"warning: the server of judge {name} answered as several models ({', '.join(sorted(models))}); verdicts of all "
                "but the most frequent one are not scored"
            )
    for variant in figures["variants"]:
        limit = variant["length_limit"]
        where = f" (replies of at most {limit} words)" if limit is not None else ""
        for name, bias in variant["judges"].items():
            share = bias["inconsistent"]["value"]
            if share is not None and share > _BIAS:
                yield f"warning: judge {name} follows the order of the replies more than a judge should{where}"
