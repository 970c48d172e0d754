"""What the votes say of themselves: how many replies were rated, by whom, and where ratings are missing."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from psychocounsel.annotation.scores.retest import Retest
from psychocounsel.annotation.scores.vote_table import OUTCOMES, RATED, RATING_COLUMNS
from psychocounsel.annotation.tables import Row

COLUMNS = ("reply", "annotator", "model", "vote", "repeat", "outcome", *RATING_COLUMNS)  # that `vote_figures` reads
ABOUT = ("risk", "topic")  # columns of speeches by which missing ratings are listed


def vote_figures(speeches: Iterable[tuple[Row, list[Row]]]) -> dict[str, Any]:
    """Figures of votes, from each speech with its votes.

    Returns:
        outcomes: all votes by outcome.
        annotators: by name, `votes` by outcome, `models` (the names that servers returned, with counts), and `ratings` (by
            principle, how often each number was given, and `not applicable`).
        missing: by `risk` and `topic`, for each value the votes by outcome and `missing`, the share without a rating.
        retest: see Retest. Repeats count here, in `outcomes`, in `votes` and in `models`, and nowhere else.
    """
    outcomes, models = defaultdict[str, Counter[str]](Counter), defaultdict[str, Counter[str]](Counter)
    ratings = defaultdict[str, Counter[tuple[str, Any]]](Counter)
    missing = {column: defaultdict[str, Counter[str]](Counter) for column in ABOUT}
    retest = Retest()
    for speech, votes in speeches:
        retest.add(votes)
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
        "annotators": {
            name: {
                "votes": _by_outcome(counts),
                "models": dict(sorted(models[name].items())),
                "ratings": _by_rating(ratings[name]),
            }
            for name, counts in sorted(outcomes.items())
        },
        "missing": {column: _missing(counts) for column, counts in missing.items()},
        "retest": retest.figures(),
    }


def _by_outcome(counts: Counter[str]) -> dict[str, int]:
    return {outcome: counts[outcome] for outcome in OUTCOMES}


def _by_rating(counts: Counter[tuple[str, Any]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {column.removesuffix("_rating"): {} for column in RATING_COLUMNS}
    for (column, rating), count in sorted(counts.items(), key=lambda each: (each[0][1] is None, each[0][1] or 0)):
        found[column.removesuffix("_rating")]["not applicable" if rating is None else str(rating)] = count
    return found


def _missing(counts: dict[str, Counter[str]]) -> dict[str, Any]:
    return {
        value: {**_by_outcome(outcomes), "missing": 1 - outcomes[RATED] / outcomes.total()}
        for value, outcomes in sorted(counts.items())
    }


def missing_table(missing: dict[str, Any]) -> list[str]:
    """Lines of text: where ratings are missing, by risk and by topic. No line where none is."""
    if all(each["missing"] == 0 for values in missing.values() for each in values.values()):
        return []
    lines = ["Ratings that are missing, by risk and topic (they are not missing at random, and nothing replaces them):"]
    for column, values in missing.items():
        width = max(len(column), *map(len, values))
        lines.append(
            f"  {column:<{width}}  {'votes':>8} " + " ".join(f"{name:>10}" for name in OUTCOMES[1:]) + "   missing"
        )
        for value, each in values.items():
            counts = [each[outcome] for outcome in OUTCOMES]
            numbers = " ".join(f"{count:>10}" for count in counts[1:])
            lines.append(f"  {value:<{width}}  {sum(counts):>8} {numbers} {each['missing']:>8.1%}")
    return lines
