"""Turns answers into a matrix of category numbers, units by raters. Coefficients of agreement are computed from it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from psychocounsel.errors import UserError
from psychocounsel.experts.agreement.answers import CHOICES, ExpertAnswer
from psychocounsel.experts.items.crisis_set import CrisisSetKind
from psychocounsel.experts.items.gate_cases import GateKind
from psychocounsel.experts.items.kind import NUMBERS

NOMINAL, ORDINAL = "nominal", "ordinal"
_OTHER = {"left": "right", "right": "left"}
_MOST_STEPS = 100  # of a scale whose whole numbers are its categories
# Scales of the questions that `review` asks about cases, whose answers `answers.jsonl` holds as ratings.
_SCALES_OF_CASES = {
    question.name: [float(NUMBERS[answer]) for answer in question.answers if answer in NUMBERS]
    for kind in (CrisisSetKind, GateKind)
    for question in kind.questions
}


@dataclass(frozen=True)
class CountingRules:
    """Rules for counting choices (docs/experts.md).

    Attributes:
        sides: categories of a choice: "shown" (left or right), "balanced" (left or right; each item counts half with sides
            exchanged) or "label" (the dataset's preferred reply or the other one).
        ties: "category" (of their own), "drop", or "half" (a tie agrees by half with either side).
        harmful: answers that both replies are harmful: "category" (of their own), "drop", or "tie" (count as ties).
    """

    sides: str = "shown"
    ties: str = "category"
    harmful: str = "category"


@dataclass(frozen=True)
class RatingRules:
    """Rules for counting ratings: `weights` is quadratic or linear, `rating_range` the lowest and highest possible rating."""

    weights: str = "quadratic"
    rating_range: Sequence[float] = (1, 5)


@dataclass(frozen=True)
class Codes:
    """Answers as codes, by unit and rater.

    Attributes:
        values: number of the category, NaN if the rater did not answer, float[units, raters].
        units: item of each unit, or item and reply.
        cluster: number of the unit's speech, int[units].
        raters: names of the columns.
        categories: names of choices, or ratings.
        agreement: agreement of each two categories, from 0 to 1, float[q, q].
        level: nominal or ordinal.
        copies: number of units per item (2 if each item counts half on either side).
    """

    values: np.ndarray
    units: tuple[tuple[str, str], ...]
    cluster: np.ndarray
    raters: tuple[str, ...]
    categories: tuple[str | float, ...]
    agreement: np.ndarray
    level: str
    copies: int = 1

    def part(self, units: np.ndarray) -> "Codes":
        """Return the codes of the units selected by a mask."""
        kept = tuple(unit for unit, keep in zip(self.units, units, strict=True) if keep)
        _, cluster = np.unique(self.cluster[units], return_inverse=True)
        return replace(self, values=self.values[units], units=kept, cluster=cluster)


def reference_sides(answers: Iterable[ExpertAnswer]) -> dict[str, str]:
    """Return the side on which the first rater by name saw an item's preferred reply; without a label, its first reply.

    Raters may have seen the two replies on different sides. `turned_choice` expresses all their choices in the sides of this
    one rater, so that "left" means the same reply for everyone.
    """
    sides: dict[str, str] = {}
    for answer in sorted(answers, key=lambda answer: (answer.item, answer.repeat, answer.rater)):
        if answer.known_side is not None:
            sides.setdefault(answer.item, answer.known_side)
    return sides


def turned_choice(answer: ExpertAnswer, reference: dict[str, str]) -> str | None:
    """Return the choice in the sides of the item's first rater (see `reference_sides`): left and right may be exchanged."""
    turned = answer.known_side is not None and answer.known_side != reference[answer.item]
    return _OTHER.get(answer.choice or "", answer.choice) if turned else answer.choice


def turned_ratings(answer: ExpertAnswer, reference: dict[str, str]) -> dict[str, dict[str, float]]:
    """Return the ratings by the side on which the item's first rater saw the reply (see `reference_sides`)."""
    turned = answer.known_side is not None and answer.known_side != reference[answer.item]
    return {_OTHER.get(side, side) if turned else side: dict(ratings) for side, ratings in answer.ratings.items()}


def choice_codes(answers: Sequence[ExpertAnswer], rules: CountingRules, columns: str = "rater") -> Codes | None:
    """Return the codes of the answers' choices; None if there are no choices.

    `columns` names the columns of the matrix: `rater`, or `repeat` for the answers of one rater.
    """
    reference = reference_sides(answers)
    given = [answer for answer in answers if answer.choice is not None]
    if rules.sides == "label":
        given = [answer for answer in given if answer.label is not None]
    counted = [(answer, _counted(turned_choice(answer, reference), answer, reference, rules)) for answer in given]
    cells = [(answer, word) for answer, word in counted if word is not None]
    if not cells:
        return None
    used = {word for _, word in cells}
    sides = ("preferred", "other") if rules.sides == "label" else ("left", "right")
    categories = (*sides, *(word for word in ("tie", "harmful") if word in used))
    agreement = np.eye(len(categories))
    if rules.ties == "half" and "tie" in categories:
        place = categories.index("tie")
        agreement[place, :2] = agreement[:2, place] = 0.5
    numbers = {word: float(number) for number, word in enumerate(categories)}
    codes = _matrix(
        [((answer.item, ""), answer.speech, _column(answer, columns), numbers[word]) for answer, word in cells],
        categories,
        agreement,
        NOMINAL,
    )
    return _on_both_sides(codes) if rules.sides == "balanced" else codes


def _counted(choice: str | None, answer: ExpertAnswer, reference: dict[str, str], rules: CountingRules) -> str | None:
    """Return the category of a choice, or None if the rules drop it."""
    assert choice in CHOICES
    if choice == "harmful":
        if rules.harmful == "drop":
            return None
        choice = "tie" if rules.harmful == "tie" else choice
    if choice == "tie" and rules.ties == "drop":
        return None
    if choice in _OTHER and rules.sides == "label":
        return "preferred" if choice == reference[answer.item] else "other"
    return choice


def _on_both_sides(codes: Codes) -> Codes:
    """Return each unit twice, the second time with sides exchanged. This equals the average over random sides."""
    exchanged = np.where(codes.values < 2, 1 - codes.values, codes.values)
    values, cluster = np.concatenate([codes.values, exchanged]), np.tile(codes.cluster, 2)
    return replace(codes, values=values, units=codes.units * 2, cluster=cluster, copies=2)


def rating_codes(
    answers: Sequence[ExpertAnswer], dimension: str, rules: RatingRules, columns: str = "rater"
) -> Codes | None:
    """Return the codes of one dimension's ratings; None if there are no ratings.

    Categories are those of the whole scale, and two of them disagree by their distance as a share of its length. AC1, AC2 and the
    weighted raw agreement would otherwise depend on which ratings happen to occur.
    """
    reference = reference_sides(answers)
    cells = []
    for answer in answers:
        for side, ratings in turned_ratings(answer, reference).items():
            if dimension in ratings:
                cells.append(((answer.item, side), answer.speech, _column(answer, columns), ratings[dimension]))
    if not cells:
        return None
    possible = _SCALES_OF_CASES.get(dimension) or _scale(*rules.rating_range)
    categories = tuple(sorted({*possible, *(value for *_, value in cells)}))
    numbers = {value: float(number) for number, value in enumerate(categories)}
    scale = np.array(categories, float)
    far = np.abs(scale[:, None] - scale) / max(scale[-1] - scale[0], 1e-12)
    agreement = 1 - (far**2 if rules.weights == "quadratic" else far)
    coded = [(unit, speech, column, numbers[value]) for unit, speech, column, value in cells]
    return _matrix(coded, categories, agreement, ORDINAL)


def _scale(low: float, high: float) -> list[float]:
    """Return the possible ratings: whole steps from the lowest one, or of a very long scale its ends alone."""
    return [*np.arange(low, high).tolist(), high] if high - low <= _MOST_STEPS else [low, high]


def dimensions_of(answers: Iterable[ExpertAnswer]) -> list[str]:
    """Return the names of all rated dimensions, in order of appearance."""
    return list(dict.fromkeys(name for answer in answers for ratings in answer.ratings.values() for name in ratings))


def _column(answer: ExpertAnswer, columns: str) -> str:
    return answer.rater if columns == "rater" else f"{answer.repeat}"


def _matrix(
    cells: Sequence[tuple[tuple[str, str], str, str, float]],
    categories: tuple[str | float, ...],
    agreement: np.ndarray,
    level: str,
) -> Codes:
    units = sorted({unit for unit, *_ in cells})
    raters = sorted({column for _, _, column, _ in cells})
    rows, columns = ({name: place for place, name in enumerate(names)} for names in (units, raters))
    speech_of = {unit: speech for unit, speech, *_ in cells}
    _, cluster = np.unique([speech_of[unit] for unit in units], return_inverse=True)
    values = np.full((len(units), len(raters)), np.nan)
    for unit, _, column, value in cells:
        values[rows[unit], columns[column]] = value
    return Codes(values, tuple(units), cluster, tuple(raters), categories, agreement, level)


def refuse_sides_without_label(answers: Sequence[ExpertAnswer], rules: CountingRules) -> None:
    """Refuse to code by the label if the table has no label.

    Raises:
        UserError: with the option to type instead.
    """
    if rules.sides == "label" and not any(answer.label for answer in answers):
        raise UserError("agreement.sides=label: no answer has a label; give agreement.sides=shown")
