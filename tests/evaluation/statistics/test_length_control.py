"""Length control against scikit-learn, and on judges with a known preference for length, questions or lists."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from psychocounsel.evaluation.statistics.length_control import length_controlled
from psychocounsel.evaluation.statistics.paired_verdicts import Verdicts
from psychocounsel.evaluation.statistics.weighted_logistic import RIDGE, fit_logistic
from psychocounsel.evaluation.statistics.win_rates import pair_figures
from tests.evaluation.statistics.simulated import judged, near, random_verdicts, verdicts


def test_the_regression_equals_scikit_learns_for_every_weighting() -> None:
    rng = np.random.default_rng(0)
    terms, scores, weights = rng.normal(0, 1, (80, 3)), rng.random(80), rng.integers(0, 4, (5, 80))
    for row, found in zip(weights, fit_logistic(terms, scores, weights), strict=True):
        reference = LogisticRegression(C=1 / RIDGE, fit_intercept=False, tol=1e-10, max_iter=10_000)
        soft = np.concatenate([row * scores, row * (1 - scores)])
        reference.fit(np.tile(terms, (2, 1)), [1] * 80 + [0] * 80, soft)
        assert found == pytest.approx(reference.coef_[0], abs=1e-5)


def test_without_a_limit_in_the_data_the_ridge_gives_one() -> None:
    terms = np.stack([np.ones(20), np.linspace(-1, 1, 20)], axis=1)
    [found] = fit_logistic(terms, (terms[:, 1] > 0).astype(float), np.full((1, 20), 1000.0))
    chances = expit(terms @ found)
    assert np.isfinite(found).all() and ((chances > 0.5) == (terms[:, 1] > 0)).all()
    gradient = 1000 * ((terms[:, 1] > 0) - chances) @ terms - RIDGE * found
    assert gradient == pytest.approx([0, 0], abs=1e-5)


def long_winded(quality: float, love: float, count: int = 1500, **more: np.ndarray) -> Verdicts:
    """Return verdicts on pairs in which a's reply is mostly longer.

    `love`: log-odds that the judge gives for the full length term.
    """
    rng = np.random.default_rng(4)
    length_a, length_b = rng.normal(220, 50, count), rng.normal(160, 50, count)
    longer = np.tanh((length_a - length_b) / (length_a - length_b).std())
    return judged(quality + love * longer, rng, length_a=length_a, length_b=length_b, **more)


def test_a_win_by_length_alone_vanishes() -> None:
    found = long_winded(quality=0, love=2.0)
    raw, controlled = pair_figures(found).win_rate, length_controlled(found)
    assert raw.low > 0.65
    assert near(controlled.win_rate, 0.5) and abs(controlled.win_rate.value - 0.5) < 0.04
    assert near(controlled.effects["length"], 2.0)


def test_a_win_by_quality_stays_and_is_not_hidden_by_short_replies() -> None:
    controlled = length_controlled(long_winded(quality=0.8, love=-1.5))
    assert pair_figures(long_winded(quality=0.8, love=-1.5)).win_rate.value < 0.55
    assert near(controlled.win_rate, expit(0.8)) and controlled.win_rate.low > 0.6


def test_a_win_by_questions_or_lists_shows_in_the_versions_that_control_them() -> None:
    rng = np.random.default_rng(5)
    asks, lists = rng.random(1500) < 0.9, rng.random(1500) < 0.7
    nothing = np.zeros(1500, bool)
    lengths = {"length_a": rng.normal(200, 50, 1500), "length_b": rng.normal(200, 50, 1500)}
    found = judged(
        1.0 * asks - 0.6 * lists,
        rng,
        question_a=asks,
        question_b=nothing,
        formatted_a=lists,
        formatted_b=nothing,
        **lengths,
    )
    assert length_controlled(found, samples=300).win_rate.low > 0.55
    both = length_controlled(found, ending=True, formatting=True, samples=300)
    assert near(both.win_rate, 0.5)
    assert near(both.effects["ending"], 1.0)
    assert near(both.effects["formatting"], -0.6)


def test_exchanged_sides_and_repeated_rows_give_the_same_figure() -> None:
    found = random_verdicts(300, seed=8).between(0, 1)
    value = length_controlled(found, ending=True, samples=50)
    turned = length_controlled(found.turned(), ending=True, samples=50)
    assert turned.win_rate.value == pytest.approx(1 - value.win_rate.value)
    assert turned.effects["length"].value == pytest.approx(value.effects["length"].value)
    twice = length_controlled(found.where(np.tile(np.arange(len(found.prompt)), 2)), ending=True, samples=50)
    assert twice.win_rate.value == pytest.approx(value.win_rate.value)


def test_replies_of_equal_length_keep_their_win_rate() -> None:
    scores = [1, 1, 1, 0, -1, 1, -1, 1] * 50
    found = length_controlled(verdicts(scores, scores))
    raw = pair_figures(verdicts(scores, scores)).win_rate.value
    assert logit(found.win_rate.value) == pytest.approx(logit(raw), rel=1e-3) and found.effects["length"].value == 0


def test_a_side_that_always_wins_keeps_its_plain_figure() -> None:
    rng = np.random.default_rng(1)
    found = verdicts(np.ones(40), np.ones(40), length_a=rng.normal(200, 50, 40))
    assert length_controlled(found).win_rate == pair_figures(found).win_rate


def test_nothing_judged_gives_no_figure() -> None:
    assert np.isnan(length_controlled(verdicts([np.nan], [1])).win_rate.value)
