"""Permutation test of the best cue, compared with all possible labellings."""

import itertools

import numpy as np
import pytest

from psychocounsel.evaluation.audit.permutation import best_cue


def every_maximum(signs: np.ndarray, component: np.ndarray) -> np.ndarray:
    """Return the best cue's share of won pairs, in its better direction, under each flip of whole components."""
    found = []
    for flips in itertools.product((1, -1), repeat=component.max() + 1):
        won = (signs * np.array(flips)[component][:, None] + 1) / 2  # a tie wins half
        found.append(np.maximum(won.mean(0), 1 - won.mean(0)).max())
    return np.array(found)


@pytest.mark.parametrize("seed", range(4))
def test_it_agrees_with_all_labellings(seed: int) -> None:
    rng = np.random.default_rng(seed)
    signs, component = rng.integers(-1, 2, (25, 4)).astype(float), np.append(np.arange(9), rng.integers(0, 9, 16))
    expected = every_maximum(signs, component)
    found = best_cue(signs, component, samples=20_000, seed=seed)
    share = np.maximum((signs > 0).mean(0), (signs < 0).mean(0)) + (signs == 0).mean(0) / 2
    assert found.accuracy == pytest.approx(share.max()) and share[found.column] == pytest.approx(share.max())
    assert found.p == pytest.approx((expected >= share.max() - 1e-9).mean(), abs=0.015)
    assert (found.low, found.high) == pytest.approx(np.quantile(expected, [0.025, 0.975]), abs=0.021)


def test_a_planted_cue_is_significant_and_the_best_of_many_random_ones_is_not() -> None:
    rng = np.random.default_rng(0)
    noise = rng.choice([-1.0, 1.0], (150, 40))
    alone = best_cue(noise, np.arange(150))
    assert alone.accuracy > 0.56 and alone.low < alone.accuracy < alone.high and alone.p > 0.05
    one_cue = best_cue(noise[:, [alone.column]], np.arange(150))
    assert one_cue.p < 0.05, "taken alone, the luckiest of 40 looks good"
    noise[:, 7] = np.where(rng.random(150) < 0.25, -1.0, 1.0)
    planted = best_cue(noise, np.arange(150))
    assert planted.column == 7 and planted.accuracy > planted.high and planted.p < 0.001


def test_pairs_of_a_component_are_flipped_together() -> None:
    signs = np.ones((60, 1))
    together = best_cue(signs, np.arange(60) // 20)
    assert together.p == pytest.approx(0.25, abs=0.04), "of three components, one labelling in four agrees with all"
    assert best_cue(signs, np.arange(60)).p < 0.001
