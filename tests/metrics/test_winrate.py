"""The win rate against counting, and its interval against resampling by hand."""

import numpy as np
import pytest

from psychocounsel.metrics.winrate import win_rate


def counted(mine: list[list[float]], theirs: list[list[float]]) -> float:
    rates = []
    for some, others in zip(mine, theirs, strict=True):
        points = [1.0 if a > b else 0.5 if a == b else 0.0 for a in some for b in others]
        rates.append(sum(points) / len(points))
    return sum(rates) / len(rates)


def test_wins_are_counted_prompt_by_prompt() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        mine, theirs = (
            [rng.integers(0, 4, rng.integers(1, 4)).astype(float).tolist() for _ in range(7)] for _ in range(2)
        )
        found = win_rate(mine, theirs, range(7), samples=20)
        assert found["win_rate"] == pytest.approx(counted(mine, theirs))
        assert found["win_rate"] + win_rate(theirs, mine, range(7), 20)["win_rate"] == pytest.approx(1)
        assert 0 <= found["win_rate_low"] <= found["win_rate_high"] <= 1


def test_ties_are_half_a_win_and_an_equal_policy_wins_half() -> None:
    same = [[1.0], [2.0], [3.0]]
    assert win_rate(same, same, range(3)) == {"win_rate": 0.5, "win_rate_low": 0.5, "win_rate_high": 0.5}
    assert win_rate([[1.0], [1.0]], [[0.0], [1.0]], range(2))["win_rate"] == 0.75


def test_entries_of_one_prompt_are_drawn_together() -> None:
    wins = [[1.0]] * 20 + [[-1.0]] * 20
    apart = win_rate(wins, [[0.0]] * 40, range(40), samples=400)
    together = win_rate(wins, [[0.0]] * 40, [number // 20 for number in range(40)], samples=400)
    rng = np.random.default_rng(1)
    by_hand = [np.mean(rng.integers(0, 2, 40)) for _ in range(4000)]
    low, high = np.quantile(by_hand, [0.025, 0.975])
    assert (apart["win_rate_low"], apart["win_rate_high"]) == pytest.approx((low, high), abs=0.05)
    assert (together["win_rate_low"], together["win_rate_high"]) == (0, 1), "two prompts tell little"


@pytest.mark.parametrize(("mine", "theirs"), [([[1.0]], [[1.0], [2.0]]), ([[]], [[1.0]]), ([[float("nan")]], [[1.0]])])
def test_what_cannot_be_compared_is_an_error(mine: list, theirs: list) -> None:
    with pytest.raises(ValueError, match="rewards for|lacks replies"):
        win_rate(mine, theirs, range(len(mine)))


def test_four_prompts_won_are_no_certainty() -> None:
    """0.025^(1/4) = 0.39764; two entries of one prompt are one trial."""
    assert win_rate([[1.0]] * 5, [[0.0]] * 5, [0, 0, 1, 2, 3])["win_rate_low"] == pytest.approx(0.39764, abs=1e-5)
    assert win_rate([[0.0]] * 4, [[1.0]] * 4, range(4))["win_rate_high"] == pytest.approx(0.60236, abs=1e-5)
