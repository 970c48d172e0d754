"""The table votes.parquet, how votes are read from annotators' answers, and the figures about them."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

import pyarrow as pa

from psychocounsel.asking.answer_text import ABSENT, Unreadable, stands_in
from psychocounsel.asking.language_model import FAILED, REFUSED, TEXT, TOO_LONG
from psychocounsel.counsel.principles import PRINCIPLES, RATINGS
from psychocounsel.grading.rating import Judgements, RatingAsk, RatingCall, Reader, Verdict
from psychocounsel.steps.tables import Row

# The table: a row for each vote of an annotator on a reply

RATED = "rated"
OUTCOMES = (RATED, "refused", "filtered", "cut", "unparsable", "failed")

RATING_COLUMNS = tuple(f"{name}_rating" for name in PRINCIPLES)  # null in a row with outcome `rated`: not applicable
ORDER = ("reply", "annotator", "repeat", "vote")  # sort order of rows within a speech

VOTES = pa.schema(
    [
        ("speech", pa.string()),
        ("reply", pa.string()),
        ("annotator", pa.string()),
        ("model", pa.string()),  # the name that the server returned
        ("vote", pa.int64()),
        ("repeat", pa.int64()),
        ("joint", pa.bool_()),
        ("position", pa.int64()),  # place among jointly rated replies, from 0
        ("outcome", pa.string()),
        *((column, pa.int64()) for column in RATING_COLUMNS),
        *((f"{name}_reason", pa.string()) for name in PRINCIPLES),
        *((f"{name}_quote", pa.string()) for name in PRINCIPLES),
        ("attempts", pa.int64()),
        ("prompt_version", pa.string()),
    ]
)


def vote_rows(call: RatingCall, outcome: str, ratings: Sequence[Judgements] | None, common: Row) -> list[Row]:
    """Return a row for each reply of a call. `ratings` holds their ratings in the order shown, if `outcome` is `rated`.

    `common` holds the values that all rows share: `model`, `attempts`, `joint`, `prompt_version`.
    """
    assert outcome in OUTCOMES and (ratings is not None) == (outcome == RATED)
    rows: list[Row] = []
    for place, (reply, _) in enumerate(call.replies):
        row: Row = dict.fromkeys(VOTES.names)
        row |= {"speech": call.speech["speech"], "reply": reply, "annotator": call.annotator.name}
        row |= {"vote": call.vote, "repeat": call.repeat, "outcome": outcome, **common}
        row["position"] = place if row["joint"] else None
        for name, judgement in (ratings[place] if ratings else {}).items():
            row |= {f"{name}_{key}": value for key, value in asdict(judgement).items()}
        rows.append(row)
    return rows


# Answers of annotators, and counts of unusable answers and wrong quotations

_REPLY = re.compile(r"^reply_\d+:? ")


@dataclass
class Findings:
    """Counts of unusable answers and of quotations, by annotator."""

    unreadable: dict[str, Counter[str]] = field(default_factory=dict)  # reason -> number of answers, over all attempts
    quotes: dict[str, Counter[str]] = field(default_factory=dict)

    def note_answer(self, annotator: str, ask: RatingAsk, text: str, read: Reader) -> None:
        """Count the reason if an answer is unusable."""
        try:
            ask.value_in(text, read)
        except Unreadable as error:
            self.unreadable.setdefault(annotator, Counter())[_REPLY.sub("", str(error))] += 1

    def note_quotes(self, annotator: str, ratings: Sequence[Judgements], replies: Sequence[str]) -> None:
        """Count quotations that are in their reply, those that are not, and those that say `absent`."""
        counts = self.quotes.setdefault(annotator, Counter())
        for judgements, reply in zip(ratings, replies, strict=True):
            for judgement in judgements.values():
                absent = judgement.quote.casefold().strip("\"'. ") == ABSENT
                counts["absent" if absent else "found" if stands_in(judgement.quote, reply) else "not_in_reply"] += 1

    def figures(self) -> dict[str, Any]:
        """Return `unreadable` (counts by annotator and reason) and `quotes` (by annotator: `found`, `absent`, `not_in_reply`)."""
        return {
            "unreadable": {name: dict(sorted(counts.items())) for name, counts in sorted(self.unreadable.items())},
            "quotes": {
                name: {kind: counts[kind] for kind in ("found", "absent", "not_in_reply")}
                for name, counts in sorted(self.quotes.items())
            },
        }


def outcome_of_vote(outcome: str, verdict: Verdict) -> str:
    """Return the outcome for votes.parquet: `rated`, or the reason why there is no rating."""
    if outcome == TOO_LONG:  # only an annotator of the user's own gives it
        return FAILED
    if outcome != TEXT:
        return outcome
    return REFUSED if verdict is None else RATED


# Test-retest agreement of an annotator

_Cells = Counter[tuple[int | None, int | None]]  # (first rating, second rating) -> replies; None: not applicable


class Retest:
    """Counts pairs of ratings of one reply by one annotator; the memory does not grow with their number."""

    def __init__(self) -> None:
        self.cells: dict[str, dict[str, _Cells]] = {}
        self.outcomes: dict[str, Counter[str]] = {}

    def add(self, rows: Iterable[Row]) -> None:
        """Count the rows of votes.parquet about one speech."""
        first_votes = [row for row in rows if row["vote"] == 0]
        first = {(row["annotator"], row["reply"]): row for row in first_votes if row["repeat"] == 0}
        for row in first_votes:
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


# Figures: votes by annotator and outcome, missing ratings by risk and topic

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
        "annotators": {
            name: {
                "votes": _by_outcome(outcomes[name]),
                "models": dict(sorted(models[name].items())),
                "ratings": _by_rating(ratings[name]),
            }
            for name in sorted(outcomes)
        },
        "missing": {column: _missing(missing[column], not_asked[column], rounds) for column in ABOUT},
        "retest": retest.figures(),
    }


def _by_outcome(counts: Counter[str]) -> dict[str, int]:
    return {outcome: counts[outcome] for outcome in OUTCOMES}


def _by_rating(counts: Counter[tuple[str, Any]]) -> dict[str, dict[str, int]]:
    by_principle: dict[str, dict[str, int]] = {column.removesuffix("_rating"): {} for column in RATING_COLUMNS}
    for (column, rating), count in sorted(counts.items(), key=lambda item: (item[0][1] is None, item[0][1] or 0)):
        by_principle[column.removesuffix("_rating")]["not applicable" if rating is None else str(rating)] = count
    return by_principle


def _missing(counts: dict[str, Counter[str]], not_asked: Counter[str], rounds: int) -> dict[str, Any]:
    """Return the counts and the missing share for each value; each reply in `not_asked` lacks `rounds` votes."""
    figures = {}
    for value in sorted(counts.keys() | (+not_asked).keys()):
        outcomes = {**_by_outcome(counts.get(value, Counter())), NOT_ASKED: not_asked[value] * rounds}
        figures[value] = {**outcomes, "missing": 1 - outcomes[RATED] / sum(outcomes.values())}
    return figures


def missing_table(missing: dict[str, Any]) -> list[str]:
    """Return the lines of a table of missing ratings by risk and topic; [] if none is missing."""
    if all(outcomes["missing"] == 0 for values in missing.values() for outcomes in values.values()):
        return []
    lines = ["Missing ratings by risk and topic (they are not missing at random, and nothing replaces them):"]
    for column, values in missing.items():
        width = max(len(column), *map(len, values))
        lines.append(
            f"  {column:<{width}}  {'wanted':>8} " + " ".join(f"{name:>10}" for name in _COUNTED[1:]) + "   missing"
        )
        for value, outcomes in values.items():
            counts = [outcomes[outcome] for outcome in _COUNTED]
            numbers = " ".join(f"{count:>10}" for count in counts[1:])
            lines.append(f"  {value:<{width}}  {sum(counts):>8} {numbers} {outcomes['missing']:>8.1%}")
    return lines
