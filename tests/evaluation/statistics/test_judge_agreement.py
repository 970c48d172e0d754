"""Agreement against scikit-learn, formulas by hand and simulated judges."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from psychocounsel.evaluation.statistics.judge_agreement import agreement, judges_agreement, labels
from psychocounsel.metrics.stats import bootstrap
from tests.evaluation.statistics.simulated import judged, random_verdicts, verdicts


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
