"""Sign-flip test and Holm's adjustment against scipy, closed forms and the definition."""

import numpy as np
import pytest
from scipy import stats

from psychocounsel.evaluation.statistics.significance import adjusted_tests, holm, sign_flip


def scipys(means: np.ndarray, resamples: float = np.inf) -> float:
    found = stats.permutation_test(
        (means - 0.5,), np.sum, permutation_type="samples", n_resamples=resamples, vectorized=False, rng=0
    )
    return float(found.pvalue)


@pytest.mark.parametrize("seed", range(4))
def test_few_prompts_are_tested_exactly(seed: int) -> None:
    means = np.random.default_rng(seed).choice([0, 0.25, 0.5, 0.75, 1], 9, p=[0.1, 0.1, 0.2, 0.2, 0.4])
    assert sign_flip(means) == pytest.approx(scipys(means))


def test_many_wins_and_losses_are_a_sign_test() -> None:
    for wins in (45, 55, 62):
        means = np.array([1.0] * wins + [0.0] * (100 - wins) + [0.5] * 20)
        assert sign_flip(means) == pytest.approx(stats.binomtest(wins, 100).pvalue, abs=0.015)


def test_ties_alone_are_no_difference_and_nothing_is_no_test() -> None:
    assert sign_flip(np.full(5, 0.5)) == 1 and np.isnan(sign_flip(np.array([])))


def test_equal_settings_are_called_different_as_often_as_promised() -> None:
    rng = np.random.default_rng(2)
    values = [sign_flip(rng.choice([0, 0.25, 0.5, 0.75, 1], 12)) for _ in range(400)]
    assert np.mean(np.array(values) <= 0.05) < 0.08


def test_holm_follows_its_definition() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    values = np.random.default_rng(1).random(30) ** 3
    ranks = stats.rankdata(values, "ordinal")
    expected = [min(1, max((30 - ranks[j] + 1) * values[j] for j in range(30) if values[j] <= each)) for each in values]
    assert holm(values) == pytest.approx(expected)


def test_a_comparison_without_verdicts_costs_the_others_nothing() -> None:
    table = {"a": np.ones(8), "none": np.array([]), "b": np.array([1.0, 0, 1, 1, 0, 1])}
    found = adjusted_tests(table)
    assert found["a"].raw == 2 / 2**8 and found["a"].adjusted == pytest.approx(2 * found["a"].raw)
    assert np.isnan(found["none"].adjusted) and found["b"].adjusted == found["b"].raw
