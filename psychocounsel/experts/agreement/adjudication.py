"""List of items to adjudicate: raters disagree with each other or with themselves. It holds no text."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psychocounsel.experts.agreement.answers_table import CHOICES, ONE_REPLY, ExpertAnswer
from psychocounsel.experts.agreement.coding import reference_sides, turned_choice

COLUMNS = (
    "item",
    "speech",
    "kind",
    "risk",
    "topic",
    "language",
    "label",
    "choices",
    "settled",
    "likely",
    "probability",
)
# Kinds of disagreement, in the order in which to settle them.
KINDS = ("harmful", "sides", "expected", "tie", "own repeat")

Row = dict[str, Any]


def disagreements(
    answers: Sequence[ExpertAnswer],
    adjudicators: Sequence[str],
    likely: Mapping[str, tuple[str, float]],
) -> list[Row]:
    """Return a row for each item with differing choices (harm first), or with differing ratings of an expected value.

    Choices are turned to the item's reference side (see `reference_sides`). `likely` holds the consensus of an item, if
    it has one, with its probability; `settled` holds the adjudicators' choices.
    """
    reference = reference_sides(answers)
    by_item: dict[str, list[ExpertAnswer]] = defaultdict(list)
    for answer in answers:
        if answer.choice is not None or answer.expected:
            by_item[answer.item].append(answer)
    rows = []
    for item, given in by_item.items():
        rated = [each for each in given if each.rater not in adjudicators]
        if kind := _kind(rated, reference):
            settled = {each.rater: _said(each, reference) for each in given if each.rater in adjudicators}
            rows.append(_row(item, kind, rated, settled, reference, likely.get(item)))
    return sorted(rows, key=lambda row: (KINDS.index(row["kind"]), row["item"]))


def _said(answer: ExpertAnswer, reference: Mapping[str, str]) -> str:
    """Return the choice; for an item that is only rated, its ratings of the expected values, with `-` if missing."""
    if answer.choice is not None:
        return turned_choice(answer, dict(reference)) or ""
    return _values(answer.ratings.get(ONE_REPLY, {}), answer.expected[ONE_REPLY])


def _values(ratings: Mapping[str, float], names: Iterable[str]) -> str:
    return ", ".join(f"{name}={ratings[name]:g}" if name in ratings else f"{name}=-" for name in names)


def _kind(answers: Sequence[ExpertAnswer], reference: dict[str, str]) -> str:
    """Return the kind of the disagreement, or "" if the answers agree."""
    first = {_said(each, reference) for each in answers if not each.repeat}
    if len(first) > 1 and not first <= {*CHOICES}:
        return "expected"
    if len(first) > 1:
        return "harmful" if "harmful" in first else "sides" if {"left", "right"} <= first else "tie"
    own: dict[str, set[str]] = defaultdict(set)
    for each in answers:
        own[each.rater].add(_said(each, reference))
    return "own repeat" if any(len(choices) > 1 for choices in own.values()) else ""


def _row(
    item: str,
    kind: str,
    answers: Sequence[ExpertAnswer],
    settled: Mapping[str, str],
    reference: Mapping[str, str],
    likely: tuple[str, float] | None,
) -> Row:
    about = answers[0]
    ordered = sorted(answers, key=lambda each: (each.repeat, each.rater))
    choices = {f"{each.rater} (again)" if each.repeat else each.rater: _said(each, reference) for each in ordered}
    expected = about.expected.get(ONE_REPLY, {})
    return {
        "item": item,
        "speech": about.speech,
        "kind": kind,
        "risk": about.risk,
        "topic": about.topic,
        "language": about.language,
        "label": reference.get(item) or _values(expected, expected) or None,
        "choices": json.dumps(choices, ensure_ascii=False),
        "settled": json.dumps(settled, ensure_ascii=False) if settled else None,
        "likely": likely and likely[0],
        "probability": likely and likely[1],
    }
