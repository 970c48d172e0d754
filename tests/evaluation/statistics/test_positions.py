"""Position bias: counts by hand, and simulated judges of known bias and error."""

import numpy as np
import pytest
from scipy.stats import binomtest

from psychocounsel.evaluation.statistics.positions import bias_by_judge, position_bias
from tests.evaluation.statistics.simulated import judged, near, verdicts


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
    rng, held = np.random.default_rng(6), 0
    for trial in range(100):
        found = position_bias(judged(rng.normal(0, 1, 300), rng, shift=0.4), samples=200, seed=trial).shift
        held += found.low <= 0.4 <= found.high
    assert held >= 88


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
    assert np.isnan(position_bias(verdicts([np.nan], [1])).inconsistent.value)
