"""Counts votes by annotator, outcome and rating, and missing ratings by risk and topic."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

from psychocounsel.annotation.scores.retest import Retest
from psychocounsel.annotation.scores.vote_table import OUTCOMES, RATED, RATING_COLUMNS
from psychocounsel.steps.tables import Row

COLUMNS = ("reply", "annotator", "model", "vote", "repeat", "outcome", *RATING_COLUMNS)  # read by `vote_figures`
NOT_ASKED = "not_asked"  # counted in addition to the outcomes of votes
ABOUT = ("risk", "topic")  # columns of speeches by which missing ratings are counted

_COUNTED = (*OUTCOMES, NOT_ASKED)


def vote_figures(speeches: Iterable[tuple[Row, Iterable[str], list[Row]]], annotators: Sequence[str]) -> dict[str, Any]:
    """Return figures of votes. `speeches` yields each speech with the ids of its replies that have a text, and its votes.

    `annotators` names all annotators, including those that were not asked about some speeches.

    Returns:
        outcomes: number of votes by outcome.
        annotators: by name: `votes` by outcome, `models` (counts of the names that servers returned), and `ratings` (for each
            principle, counts of each number and of `not applicable`).
        missing: for each value of `risk` and `topic`: the votes by outcome, `not_asked` (votes on replies that an annotator was
            not shown) and `missing`, the share of all these votes without a rating.
        retest: see Retest. Repeated votes count here and in `outcomes`, `votes` and `models`, but nowhere else.
    """
    outcomes, models = defaultdict[str, Counter[str]](Counter), defaultdict[str, Counter[str]](Counter)
    ratings = defaultdict[str, Counter[tuple[str, Any]]](Counter)
    missing = {column: defaultdict[str, Counter[str]](Counter) for column in ABOUT}
    not_asked = {column: Counter[str]() for column in ABOUT}
    retest, rounds = Retest(), 1
    for speech, replies, votes in speeches:
        retest.add(votes)
        rounds = max([rounds, *(row["vote"] + 1 for row in votes)])
        skipped = len({*product(annotators, replies)} - {(row["annotator"], row["reply"]) for row in votes})
        for column, skips in not_asked.items():
            skips[speech[column] or "not given"] += skipped
        for row in votes:
            name = row["annotator"]
            outcomes[name][row["outcome"]] += 1
            models[name][row["model"] or "not said"] += 1
            if row["repeat"]:
                continue
            for column, counts in missing.items():
                counts[speech[column] or "not given"][row["outcome"]] += 1
            if row["outcome"] == RATED:
                ratings[name].update((column, row[column]) for column in RATING_COLUMNS)
    return {
        "outcomes": _by_outcome(sum(outcomes.values(), Counter())),
        "annotators": {name: _annotator(outcomes[name], models[name], ratings[name]) for name in sorted(outcomes)},
        "missing": {column: _missing(missing[column], not_asked[column], rounds) for column in ABOUT},
        "retest": retest.figures(),
    }


def _annotator(outcomes: Counter[str], models: Counter[str], ratings: Counter[tuple[str, Any]]) -> dict[str, Any]:
    return {"votes": _by_outcome(outcomes), "models": dict(sorted(models.items())), "ratings": _by_rating(ratings)}


def _by_outcome(counts: Counter[str]) -> dict[str, int]:
    return {outcome: counts[outcome] for outcome in OUTCOMES}


def _by_rating(counts: Counter[tuple[str, Any]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {column.removesuffix("_rating"): {} for column in RATING_COLUMNS}
    for (column, rating), count in sorted(counts.items(), key=lambda each: (each[0][1] is None, each[0][1] or 0)):
        found[column.removesuffix("_rating")]["not applicable" if rating is None else str(rating)] = count
    return found


def _missing(counts: dict[str, Counter[str]], not_asked: Counter[str], rounds: int) -> dict[str, Any]:
    """Return the counts and the missing share for each value; each reply in `not_asked` lacks `rounds` votes."""
    found = {}
    for value in sorted(counts.keys() | (+not_asked).keys()):
        outcomes = {**_by_outcome(counts.get(value, Counter())), NOT_ASKED: not_asked[value] * rounds}
        found[value] = {**outcomes, "missing": 1 - outcomes[RATED] / sum(outcomes.values())}
    return found


def missing_table(missing: dict[str, Any]) -> list[str]:
    """Return the lines of a table of missing ratings by risk and topic; [] if none is missing."""
    if all(each["missing"] == 0 for values in missing.values() for each in values.values()):
        return []
    lines = ["Missing ratings by risk and topic (they are not missing at random, and nothing replaces them):"]
    for column, values in missing.items():
        width = max(len(column), *map(len, values))
        lines.append(
            f"  {column:<{width}}  {'wanted':>8} " + " ".join(f"{name:>10}" for name in _COUNTED[1:]) + "   missing"
        )
        for value, each in values.items():
            counts = [each[outcome] for outcome in _COUNTED]
            numbers = " ".join(f"{count:>10}" for count in counts[1:])
            lines.append(f"  {value:<{width}}  {sum(counts):>8} {numbers} {each['missing']:>8.1%}")
    return lines
