"""Test-retest agreement: how often an annotator repeats its rating when asked about the same reply again."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from psychocounsel.annotation.scores.vote_table import RATED
from psychocounsel.counsel.principles import PRINCIPLES, RATINGS
from psychocounsel.steps.tables import Row

_Cells = Counter[tuple[int | None, int | None]]  # (first rating, second rating) -> replies; None: not applicable


class Retest:
    """Counts pairs of ratings of one reply by one annotator; the memory does not grow with their number."""

    def __init__(self) -> None:
        self.cells: dict[str, dict[str, _Cells]] = {}
        self.outcomes: dict[str, Counter[str]] = {}

    def add(self, rows: Iterable[Row]) -> None:
        """Count the rows of votes.parquet about one speech."""
        wanted = [row for row in rows if row["vote"] == 0]
        first = {(row["annotator"], row["reply"]): row for row in wanted if row["repeat"] == 0}
        for row in wanted:
            if row["repeat"] == 0:
                continue
            annotator, before = row["annotator"], first[row["annotator"], row["reply"]]
            both = before["outcome"] == row["outcome"] == RATED
            same = before["outcome"] == row["outcome"]
            counts = self.outcomes.setdefault(annotator, Counter())
            counts["rated_twice" if both else "no_rating_twice" if same else "changed_outcome"] += 1
            if both:
                cells = self.cells.setdefault(annotator, {name: Counter() for name in PRINCIPLES})
                for name in PRINCIPLES:
                    cells[name][before[f"{name}_rating"], row[f"{name}_rating"]] += 1

    def figures(self) -> dict[str, Any]:
        """Return, for each annotator, the number of replies rated twice and the agreement on each principle.

        `changed_outcome` counts replies with different outcomes the two times, of which at most one is a rating;
        `no_rating_twice` counts replies with the same outcome both times but no rating. For the figures of each
        principle see `agreement_of`.
        """
        return {
            annotator: {
                **{name: counts[name] for name in ("rated_twice", "no_rating_twice", "changed_outcome")},
                "principles": {name: agreement_of(cells) for name, cells in self.cells.get(annotator, {}).items()},
            }
            for annotator, counts in self.outcomes.items()
        }


def agreement_of(cells: _Cells) -> dict[str, Any]:
    """Return the agreement of the two ratings of each reply.

    Returns:
        `replies`: the number of replies with two numeric ratings; among these, `exact` is the share with equal ratings,
        `difference` the mean absolute difference, and `weighted_kappa` the kappa with squared weights (Cohen 1968), or None
        if all ratings are the same number. `applicable_once` counts replies rated once with "not applicable" and once with
        a number.
    """
    numbers = {pair: count for pair, count in cells.items() if None not in pair}
    total = sum(numbers.values())
    once = sum(count for (first, second), count in cells.items() if (first is None) != (second is None))
    if not total:
        return {"replies": 0, "exact": None, "difference": None, "weighted_kappa": None, "applicable_once": once}
    return {
        "replies": total,
        "exact": sum(count for (first, second), count in numbers.items() if first == second) / total,
        "difference": sum(count * abs(first - second) for (first, second), count in numbers.items()) / total,  # type: ignore[operator]
        "weighted_kappa": _weighted_kappa(numbers),
        "applicable_once": once,
    }


def _weighted_kappa(numbers: dict[Any, int]) -> float | None:
    from sklearn.metrics import cohen_kappa_score  # takes a second to import

    first, second = zip(*numbers, strict=True)
    if len({*first, *second}) < 2:
        return None  # kappa is undefined, because the expected disagreement is 0
    counts = list(numbers.values())
    return float(cohen_kappa_score(first, second, labels=RATINGS, weights="quadratic", sample_weight=counts))
