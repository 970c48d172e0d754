"""Agreement and position bias against scikit-learn, formulas by hand and simulated judges."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from psychocounsel.metrics.agreement import agreement, bias_by_judge, judges_agreement, labels, position_bias
from psychocounsel.metrics.intervals import bootstrap
from tests.metrics.simulated import judged, near, random_verdicts, verdicts

# Agreement against scikit-learn, formulas by hand and simulated judges.


def both(seed: int, count: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    first = rng.integers(-1, 2, count).astype(float)
    second = np.where(rng.random(count) < 0.6, first, rng.integers(-1, 2, count))
    return first, second, rng.integers(0, 80, count)


def test_kappa_equals_scikit_learns_and_its_interval_that_of_the_plain_bootstrap() -> None:
    first, second, prompts = both(0)
    found = agreement(first, second, prompts)
    assert found.raw.value == pytest.approx(np.mean(first == second))
    assert found.kappa.value == pytest.approx(cohen_kappa_score(first, second))
    low, high = bootstrap(lambda rows: cohen_kappa_score(first[rows], second[rows]), prompts, samples=150)
    assert (found.kappa.low, found.kappa.high) == pytest.approx((low, high), abs=0.04)


def test_ac1_follows_its_formula_and_stays_high_where_one_label_prevails() -> None:
    first = np.array([1.0] * 118 + [1] * 5 + [-1] * 2)  # the table of Gwet 2008: 118, 5, 2, 0
    second = np.array([1.0] * 118 + [-1] * 5 + [1] * 2)
    found = agreement(first, second, np.arange(125))
    prevalence = (123 + 120) / 250
    chance = 2 * prevalence * (1 - prevalence) / 2  # three labels, of which the third is unused
    assert found.ac1.value == pytest.approx((118 / 125 - chance) / (1 - chance)) and found.ac1.value > 0.9
    assert found.kappa.value == pytest.approx(cohen_kappa_score(first, second)) and found.kappa.value < 0


def test_rows_without_a_label_are_left_out() -> None:
    first, second, prompts = both(1)
    gaps = np.random.default_rng(2).random((2, 300)) < 0.2
    found = agreement(np.where(gaps[0], np.nan, first), np.where(gaps[1], np.nan, second), prompts)
    kept = ~gaps.any(0)
    assert found == agreement(first[kept], second[kept], prompts[kept]) and found.rows == kept.sum()


def test_no_common_row_has_no_agreement_and_other_labels_are_refused() -> None:
    nothing = agreement(np.array([np.nan, 1.0]), np.array([1.0, np.nan]), np.arange(2))
    assert nothing.rows == 0 and np.isnan(nothing.raw.value) and np.isnan(nothing.kappa.low)
    with pytest.raises(ValueError, match="-1, 0, 1"):
        agreement(np.array([2.0]), np.array([1.0]), np.arange(1))


def test_the_label_of_a_row_is_the_side_of_its_score() -> None:
    found = labels(verdicts([1, 1, 1, 0, -1, np.nan], [1, -1, 0, -1, -1, 1]))
    np.testing.assert_array_equal(found, [1, 0, 1, -1, -1, np.nan])


def test_two_judges_are_compared_on_the_pairs_that_both_judged() -> None:
    rng = np.random.default_rng(3)
    better = np.tile(np.where(rng.random(200) < 0.5, 30.0, -30.0), 2)
    found = judged(better, rng, prompt=np.tile(np.arange(200), 2), judge=np.repeat([0, 1], 200))
    wrong = found.judge * (found.prompt < 50) == 1  # judge 1 gives the opposite verdict on 50 of 200 speeches
    found = verdicts(
        np.where(wrong, -found.forward, found.forward),
        np.where(wrong, -found.backward, found.backward),
        prompt=found.prompt,
        judge=found.judge,
    )
    shuffled = found.where(rng.permutation(400)[:380])
    both_judged = set(shuffled.prompt[shuffled.judge == 0]) & set(shuffled.prompt[shuffled.judge == 1])
    result = judges_agreement(shuffled, 0, 1)
    assert result.rows == result.prompts == len(both_judged)
    assert result.raw.value == pytest.approx(np.mean([prompt >= 50 for prompt in both_judged]))
    assert judges_agreement(random_verdicts(50, seed=1), 0, 9).rows == 0


# Position bias: counts by hand, and simulated judges of known bias and error.


def test_figures_of_a_few_rows_by_hand() -> None:
    # First place twice (3 rows), second place twice (1), consistent (4), a tie in one order (2), one order missing (1).
    forward = [1, 1, 1, -1, 1, 1, -1, -1, 0, 1, 1]
    backward = [-1, -1, -1, 1, 1, 1, -1, -1, 1, 0, np.nan]
    found = position_bias(verdicts(forward, backward))
    assert (found.rows, found.inconsistent.value, found.half_consistent.value) == (10, 0.4, 0.2)
    # Of 20 calls the first place wins 6 + 0 + 4 of the decided rows, and 0.5 + 0 and 1 + 0.5 of those with a tie.
    assert found.first_place.value == pytest.approx(12 / 20)
    assert found.shift.value == pytest.approx(np.log(3.5 / 1.5) / 2)


@pytest.mark.parametrize("shift", [0.0, 0.6, -1.0])
def test_a_known_shift_is_found_whatever_the_quality_of_the_pairs(shift: float) -> None:
    rng = np.random.default_rng(3)
    found = position_bias(judged(rng.normal(0.5, 2, 4000), rng, shift=shift)).shift
    assert near(found, shift) and found.high - found.low < 0.3


def test_intervals_of_the_shift_cover_the_truth() -> None:
    for prompts, least in ((300, 180), (12, 180)):  # by percentiles, 83 % at 12 prompts
        rng, held = np.random.default_rng(6), 0
        for _ in range(200):
            found = position_bias(judged(rng.normal(0, 1, prompts), rng, shift=0.4)).shift
            held += found.low <= 0.4 <= found.high
        assert held >= least


@pytest.mark.parametrize(("shift", "lapse"), [(0.0, 0.1), (0.0, 0.25), (1.0, 0.1)])
def test_a_known_error_rate_is_found(shift: float, lapse: float) -> None:
    """The judge knows the better reply (odds of e^30) and names the other one with probability `lapse`, or more with a shift."""
    rng = np.random.default_rng(9)
    sides = np.where(rng.random(3000) < 0.6, 1, -1)
    if shift:  # errors by odds, so that the place matters: 10 % without a shift
        odds = np.log((1 - lapse) / lapse)
        found = position_bias(judged(odds * sides, rng, shift=shift))
        truth = (1 / (1 + np.exp(odds + shift)) + 1 / (1 + np.exp(odds - shift))) / 2
    else:
        found, truth = position_bias(judged(30.0 * sides, rng, lapse=lapse)), lapse
    assert near(found.error, truth) and found.error.high - found.error.low < 0.06
    assert near(found.shift, shift)


def test_a_judge_who_always_prefers_the_first_is_told_from_one_who_does_not_look() -> None:
    rng = np.random.default_rng(2)
    better = np.concatenate([rng.normal(0, 2, 300), np.zeros(300)])
    sure = judged(better, rng, judge=np.repeat([4, 7], 300))
    forward, backward = sure.forward.copy(), sure.backward.copy()
    forward[:300], backward[:300] = 1, -1
    found = bias_by_judge(verdicts(forward, backward, judge=sure.judge))
    assert list(found) == [4, 7]
    assert found[4].inconsistent.value == 1 and found[4].first_place.value == 1
    assert near(found[7].first_place, 0.5) and near(found[7].shift, 0)
    assert found[7].error.value > 0.3


def test_a_consistent_judge_has_no_bias_and_nothing_judged_no_figure() -> None:
    scores = np.array([1, -1, 1, 0, 1])
    found = position_bias(verdicts(scores, scores))
    assert (found.inconsistent.value, found.first_place.value, found.shift.value, found.error.value) == (0, 0.5, 0, 0)
    assert found.inconsistent.high == pytest.approx(binomtest(0, 5).proportion_ci().high), "five rows promise little"
    few = 1 - 0.025 ** (
        1 / 4
    )  # upper bound of contradictions of the four rows without a tie: half of the calls may be errors
    assert few > 0.5 and (found.error.low, found.error.high) == (0, 0.5)
    many = position_bias(verdicts(np.ones(40), np.ones(40))).error
    assert (1 - 2 * many.high) ** 2 == pytest.approx(1 - 2 * (1 - 0.025 ** (1 / 40)))
    assert np.isnan(position_bias(verdicts([np.nan], [1])).inconsistent.value)
