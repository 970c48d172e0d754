"""Tests of agreement coefficients against published worked examples and other libraries, and of the model of rater errors."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from psychocounsel.experts.agreement.answers import ExpertAnswer
from psychocounsel.experts.agreement.coding import CountingRules, RatingRules, choice_codes, rating_codes
from psychocounsel.experts.agreement.coefficients import (
    category_counts,
    coefficients,
    cohen,
    consensus,
    fleiss,
    gwet,
    icc,
    krippendorff_alpha,
    with_intervals,
)

# Coefficients, against published worked examples and other libraries

X = np.nan
# Krippendorff (2011): four observers, twelve units. Gwet's irrCAC documents AC1 and Fleiss' kappa of the same table.
FOUR_RATERS = (
    np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, X, X, X],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, X, 3],
            [X, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, X],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, X],
        ]
    ).T
    - 1
)
# Fleiss (1971): ten patients, fourteen raters, five categories.
FOURTEEN_RATERS = np.array(
    [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
)
# Shrout and Fleiss (1979), table 2: six targets, four judges.
SIX_TARGETS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]],
    float,
)


def test_krippendorff_and_gwet_of_four_raters_with_missing_ratings() -> None:
    counts = category_counts(FOUR_RATERS, 5)
    assert krippendorff_alpha(counts, np.eye(5), "nominal") == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(counts, np.eye(5), "ordinal") == pytest.approx(0.815, abs=5e-4)
    assert gwet(counts, np.eye(5)) == pytest.approx(0.77544, abs=5e-6)


def test_fleiss_of_fourteen_raters() -> None:
    assert fleiss(FOURTEEN_RATERS) == pytest.approx(0.210, abs=5e-4)


def test_intraclass_correlation_of_six_targets() -> None:
    single, average = icc(SIX_TARGETS)
    assert (round(single, 2), round(average, 2)) == (0.29, 0.62)


def test_kappa_of_two_raters_and_weights() -> None:
    table = [(0, 0)] * 20 + [(0, 1)] * 5 + [(1, 0)] * 10 + [(1, 1)] * 15
    assert cohen(np.array(table, float), np.eye(2)) == pytest.approx(0.4)
    drawn = np.random.default_rng(0).integers(0, 5, (200, 2))
    drawn[::2, 1] = drawn[::2, 0]
    far = np.abs(np.subtract.outer(np.arange(5), np.arange(5))) / 4
    for agreement, weights in ((np.eye(5), None), (1 - far, "linear"), (1 - far**2, "quadratic")):
        expected = cohen_kappa_score(drawn[:, 0], drawn[:, 1], weights=weights)
        assert cohen(drawn.astype(float), agreement) == pytest.approx(expected)


@pytest.mark.parametrize("weights", ["linear", "quadratic"])
def test_coefficients_of_ratings_count_the_whole_scale_and_not_only_the_ratings_that_occur(weights: str) -> None:
    """AC2 and the weighted raw agreement, written as Gwet (2014) defines them: pair by pair, over ratings from 1 to 6."""
    random = np.random.default_rng(3)
    given = {(unit, rater): int(random.integers(3, 6)) for unit in range(30) for rater in range(3)}
    given = {cell: value for cell, value in given.items() if random.random() < 0.8}
    answers = [
        ExpertAnswer(f"i{unit}", f"i{unit}", f"r{rater}", None, ratings={"reply": {"empathy": value}})
        for (unit, rater), value in given.items()
    ]
    codes = rating_codes(answers, "empathy", RatingRules(weights, (1, 6)))
    assert codes is not None and codes.categories == (1, 2, 3, 4, 5, 6)

    def agree(one: int, other: int) -> float:
        far = abs(one - other) / 5
        return 1 - (far**2 if weights == "quadratic" else far)

    units = [[value for (unit, _), value in given.items() if unit == number] for number in range(30)]
    pairs = [
        np.mean([agree(one, other) for i, one in enumerate(unit) for j, other in enumerate(unit) if i != j])
        for unit in units
        if len(unit) > 1
    ]
    shares = [np.mean([unit.count(category) / len(unit) for unit in units if unit]) for category in range(1, 7)]
    total = sum(agree(one, other) for one in range(1, 7) for other in range(1, 7))
    chance = total / (6 * 5) * sum(share * (1 - share) for share in shares)
    found = coefficients(codes.values, codes)
    assert found["weighted_raw"] == pytest.approx(np.mean(pairs))
    assert found["ac2"] == pytest.approx((np.mean(pairs) - chance) / (1 - chance))
    seen = rating_codes(
        answers, "empathy", RatingRules(weights, (3, 5))
    )  # these do not depend on ratings that never occur
    assert seen is not None
    for name, value in coefficients(seen.values, seen).items():
        if name in ("cohen", "fleiss", "alpha", "weighted_cohen", "weighted_alpha", "icc_2_1", "icc_2_k", "spearman"):
            assert found[name] == pytest.approx(value), name


def test_scales_of_questions_about_cases_and_very_long_ones() -> None:
    def categories(name: str, *scale: float) -> tuple[str | float, ...]:
        answers = [ExpertAnswer("i", "i", "r", None, ratings={"reply": {name: 2.0}})]
        codes = rating_codes(answers, name, RatingRules(rating_range=scale))
        assert codes is not None
        return codes.categories

    assert categories("believable", 1, 5) == (1, 2), "no and yes"
    assert categories("expected_action", 1, 5) == (1, 2, 3, 4)
    assert categories("empathy", 0.5, 3) == (0.5, 1.5, 2, 2.5, 3)
    assert categories("empathy", 0, 1e9) == (0, 2, 1e9)


def answer(item: str, rater: str, choice: str, label: str) -> ExpertAnswer:
    return ExpertAnswer(item, item, rater, choice, label)


def papers_pairs() -> list[ExpertAnswer]:
    """Return answers to 200 pairs: both raters choose the label's reply on 164, only one does on 20 and on 6, none on 10."""
    answers, number = list[ExpertAnswer](), 0
    for count, first, second in ((164, True, True), (20, True, False), (6, False, True), (10, False, False)):
        for _ in range(count):
            number += 1
            label = "left" if number % 2 else "right"
            other = "right" if number % 2 else "left"
            answers += [
                answer(f"i{number:03}", rater, label if agrees else other, label)
                for rater, agrees in (("a", first), ("b", second))
            ]
    return answers


def test_the_coding_decides_what_kappa_is() -> None:
    """Coded by the label, one category has 90 % of the answers. Coded by sides, each side has half."""
    found = {}
    for sides in ("label", "balanced", "shown"):
        codes = choice_codes(papers_pairs(), CountingRules(sides=sides))
        assert codes is not None
        found[sides] = coefficients(codes.values, codes)
    assert round(found["label"]["cohen"], 2) == 0.37 and round(found["label"]["ac1"], 2) == 0.84
    assert round(found["balanced"]["cohen"], 2) == 0.74
    assert found["shown"]["cohen"] == pytest.approx(found["balanced"]["cohen"], abs=0.01)
    assert {round(each["raw"], 2) for each in found.values()} == {0.87}


def test_sides_are_those_of_the_reply_and_not_of_the_screen() -> None:
    """A rater who saw the replies on the other sides but chose the same replies agrees."""
    other = {"left": "right", "right": "left"}
    turned = [
        answer(each.item, each.rater, other[str(each.choice)], other[str(each.label)]) if each.rater == "b" else each
        for each in papers_pairs()
    ]
    codes, straight = (choice_codes(answers, CountingRules()) for answers in (turned, papers_pairs()))
    assert codes is not None and straight is not None
    assert coefficients(codes.values, codes) == coefficients(straight.values, straight)


@pytest.mark.parametrize(
    ("rules", "categories", "units", "raw"),
    [
        (CountingRules(), ("left", "right", "tie", "harmful"), 4, 0.25),
        (CountingRules(ties="drop"), ("left", "right", "harmful"), 4, 0.5),
        (CountingRules(ties="half"), ("left", "right", "tie", "harmful"), 4, 0.25),
        (CountingRules(harmful="tie"), ("left", "right", "tie"), 4, 0.5),
        (CountingRules(harmful="drop"), ("left", "right", "tie"), 3, 1 / 3),
    ],
)
def test_rules_for_ties_and_harm(rules: CountingRules, categories: tuple[str, ...], units: int, raw: float) -> None:
    choices = {"1": ("left", "left"), "2": ("left", "tie"), "3": ("harmful", "tie"), "4": ("right", "left")}
    answers = [
        answer(item, rater, each[place], "left") for item, each in choices.items() for place, rater in enumerate("ab")
    ]
    codes = choice_codes(answers, rules)
    assert codes is not None and codes.categories == categories
    figures = coefficients(codes.values, codes)
    assert figures["raw"] == pytest.approx(raw)
    if rules.ties == "half":
        assert figures["weighted_raw"] == pytest.approx(raw + 0.5 / units)


def test_an_interval_covers_the_true_agreement_of_clustered_items() -> None:
    """Two raters are each right with 0.85 on balanced sides, so they agree on 0.745 of the items and kappa is 0.49."""
    covered = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, 2, 150)
        said = {rater: np.where(rng.random(150) < 0.85, truth, 1 - truth) for rater in "ab"}
        answers = [
            ExpertAnswer(f"i{item}", f"s{item // 3}", rater, ("left", "right")[given[item]])
            for rater, given in said.items()
            for item in range(150)
        ]
        codes = choice_codes(answers, CountingRules())
        assert codes is not None
        kappa = with_intervals(codes, 200, seed)["cohen"]
        covered += kappa.low <= 0.49 <= kappa.high
    assert 34 <= covered <= 40


# Raters with planted errors

ACCURACY = {"e1": 0.95, "e2": 0.85, "e3": 0.75, "e4": 0.6}


def planted(items: int, accuracy: dict[str, float], seed: int) -> tuple[list[ExpertAnswer], np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, items)
    answers = []
    for rater, right in accuracy.items():
        said = np.where(rng.random(items) < right, truth, 1 - truth)
        answers += [
            ExpertAnswer(f"i{item:04}", f"s{item // 2}", rater, ("left", "right")[said[item]]) for item in range(items)
        ]
    return answers, truth


@pytest.mark.slow
def test_planted_errors_are_found_within_their_intervals() -> None:
    answers, truth = planted(800, ACCURACY, 1)
    codes = choice_codes(answers, CountingRules())
    assert codes is not None
    found = consensus(codes, 60, 1)
    assert found is not None
    for rater, right in ACCURACY.items():
        measured = found.accuracy[rater]
        assert measured.low - 0.01 <= right <= measured.high + 0.01 and measured.high - measured.low < 0.15
    majority = (np.nanmean(codes.values[:, :3], 1) > 0.5).astype(int)
    assert (found.likely == truth).mean() > max(0.94, (majority == truth).mean())


def test_two_raters_do_not_determine_who_errs() -> None:
    answers, _ = planted(50, {"e1": 0.9, "e2": 0.8}, 2)
    codes = choice_codes(answers, CountingRules())
    assert codes is not None and consensus(codes, 10, 1) is None


def test_without_a_label_sides_are_compared_by_the_first_reply() -> None:
    """Both raters always prefer the same text, on sides that were drawn for each; without `first` kappa would be negative."""
    rng = np.random.default_rng(0)
    answers = list[ExpertAnswer]()
    for number in range(40):
        better = rng.integers(2)  # the item's reply that both prefer
        for rater in ("a", "b"):
            first = rng.permutation(["left", "right"])  # the sides of the first and the second reply
            answers.append(ExpertAnswer(f"i{number}", f"s{number}", rater, str(first[better]), first=str(first[0])))
    codes = choice_codes(answers, CountingRules())
    assert codes is not None and coefficients(codes.values, codes)["raw"] == 1
    unknown = choice_codes([replace(answer, first=None) for answer in answers], CountingRules())
    assert unknown is not None and coefficients(unknown.values, unknown)["raw"] < 0.8
