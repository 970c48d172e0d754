"""Parts of the agreement report: choices, groups, the dataset's label, expected values, ratings, and repeated items."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from psychocounsel.experts.agreement.answers import ONE_REPLY, ExpertAnswer
from psychocounsel.experts.agreement.coding import (
    Codes,
    CountingRules,
    RatingRules,
    choice_codes,
    dimensions_of,
    rating_codes,
    reference_sides,
)
from psychocounsel.experts.agreement.coefficients import with_intervals
from psychocounsel.metrics.intervals import Measure

GROUPS = ("risk", "topic", "language")
LABEL = "label of the dataset"  # as the name of a rater


@dataclass(frozen=True)
class Resampling:
    """Settings of intervals: number of resamples, seed, and the least number of items for a group."""

    samples: int
    seed: int
    least_items: int


@dataclass(frozen=True)
class PartAgreement:
    """Agreement coefficients of one set of answers.

    Attributes:
        part: choices, ratings, label, expected or repeats.
        about: all, GROUP=VALUE, a principle, a rater, or a rater and a principle.
        items, speeches, raters: how many items, speeches and raters have at least one comparable answer.
        figures: coefficients by name.
    """

    part: str
    about: str
    items: int
    speeches: int
    raters: int
    figures: dict[str, Measure]


def agreement_of(part: str, about: str, codes: Codes | None, sampling: Resampling) -> PartAgreement | None:
    """Return the coefficients over units with two answers or more; None if there are no such units."""
    if codes is None:
        return None
    compared = (~np.isnan(codes.values)).sum(1) >= 2
    if not compared.any():
        return None
    codes = codes.part(compared)
    items = len({item for item, _ in codes.units})
    raters = int((~np.isnan(codes.values)).any(0).sum())
    figures = with_intervals(codes, sampling.samples, sampling.seed)
    return PartAgreement(part, about, items, int(codes.cluster.max()) + 1, raters, figures)


def every_part(
    answers: Sequence[ExpertAnswer], rules: CountingRules, ratings: RatingRules, sampling: Resampling
) -> Iterator[PartAgreement]:
    """Yield all parts for which the answers have the data."""
    first = [answer for answer in answers if not answer.repeat]
    parts = chain(
        _choices(first, rules, sampling),
        _with_label(first, rules, sampling),
        _with_expected(first, ratings, sampling),
        _ratings(first, ratings, sampling),
        _repeats(answers, rules, ratings, sampling),
    )
    yield from (part for part in parts if part is not None)


def _choices(
    answers: Sequence[ExpertAnswer], rules: CountingRules, sampling: Resampling
) -> Iterator[PartAgreement | None]:
    yield agreement_of("choices", "all", choice_codes(answers, rules), sampling)
    for group in GROUPS:
        values = sorted({value for answer in answers if (value := getattr(answer, group)) is not None})
        for value in values:
            chosen = [answer for answer in answers if getattr(answer, group) == value]
            if len({answer.item for answer in chosen}) >= sampling.least_items:
                yield agreement_of("choices", f"{group}={value}", choice_codes(chosen, rules), sampling)


def _with_label(
    answers: Sequence[ExpertAnswer], rules: CountingRules, sampling: Resampling
) -> Iterator[PartAgreement | None]:
    """Yield each rater's agreement with the dataset's label.

    Choices are never coded with `sides=label`, because the label itself would then be constant.
    """
    rules = replace(rules, sides="balanced" if rules.sides == "label" else rules.sides)
    labelled = [answer for answer in answers if answer.label and answer.choice]
    reference = reference_sides(answers)
    for rater in sorted({answer.rater for answer in labelled}):
        own = [answer for answer in labelled if answer.rater == rater]
        labels = [
            replace(answer, rater=LABEL, choice=reference[answer.item], label=reference[answer.item]) for answer in own
        ]
        yield agreement_of("label", rater, choice_codes([*own, *labels], rules), sampling)


def _with_expected(
    answers: Sequence[ExpertAnswer], ratings: RatingRules, sampling: Resampling
) -> Iterator[PartAgreement | None]:
    """Yield each rater's agreement with the values that the dataset expects."""
    labelled = [answer for answer in answers if answer.expected]
    dimensions = {name for answer in labelled for name in answer.expected[ONE_REPLY]}
    for rater in sorted({answer.rater for answer in labelled}):
        for name in sorted(dimensions):
            own = [answer for answer in labelled if answer.rater == rater and _rated(answer, name)]
            labels = [replace(answer, rater=LABEL, ratings=answer.expected) for answer in own]
            yield agreement_of("expected", f"{rater}, {name}", rating_codes([*own, *labels], name, ratings), sampling)


def _rated(answer: ExpertAnswer, dimension: str) -> bool:
    return dimension in answer.ratings.get(ONE_REPLY, {})


def _ratings(
    answers: Sequence[ExpertAnswer], ratings: RatingRules, sampling: Resampling
) -> Iterator[PartAgreement | None]:
    for dimension in dimensions_of(answers):
        yield agreement_of("ratings", dimension, rating_codes(answers, dimension, ratings), sampling)


def _repeats(
    answers: Sequence[ExpertAnswer], rules: CountingRules, ratings: RatingRules, sampling: Resampling
) -> Iterator[PartAgreement | None]:
    """Yield each rater's agreement with their own second answers, on items shown twice."""
    for rater in sorted({answer.rater for answer in answers if answer.repeat}):
        own = [answer for answer in answers if answer.rater == rater]
        yield agreement_of("repeats", rater, choice_codes(own, rules, "repeat"), sampling)
        for dimension in dimensions_of(own):
            codes = rating_codes(own, dimension, ratings, "repeat")
            yield agreement_of("repeats", f"{rater}, {dimension}", codes, sampling)
