"""Bradley-Terry strengths and length control against scikit-learn, closed forms and judges with known preferences."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

from psychocounsel.metrics.regressions import RIDGE, bradley_terry, fit_logistic, length_controlled
from psychocounsel.metrics.win_rates import Verdicts, pair_figures
from tests.metrics.simulated import judged, near, random_verdicts, verdicts

# Length control against scikit-learn, and on judges with a known preference for length, questions or lists.


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


# Bradley-Terry strengths against scikit-learn and closed forms.


def test_strengths_equal_scikit_learns() -> None:
    found = random_verdicts(500, seed=10, settings=4, prompts=500, missing=0).where(np.arange(500) % 5 > 0)
    found = found.where(np.unique(found.prompt, return_index=True)[1])  # one row per prompt: each has weight 1
    count = len(found.prompt)
    terms = np.zeros((count, 4))
    terms[np.arange(count), found.a], terms[np.arange(count), found.b] = 1, -1
    reference = LogisticRegression(C=1 / RIDGE, fit_intercept=False, tol=1e-10, max_iter=10_000)
    weights = np.concatenate([found.scores(), 1 - found.scores()])
    reference.fit(np.tile(terms, (2, 1)), [1] * count + [0] * count, weights)
    ranking = bradley_terry(found, samples=20)
    assert ranking.bounded and ranking.groups == [[0, 1, 2, 3]]
    values = {setting: each.log_odds.value for setting, each in ranking.strengths.items()}
    assert [values[setting] for setting in range(4)] == pytest.approx(reference.coef_[0], abs=1e-4)
    assert list(values) == sorted(values, key=lambda setting: -values[setting])


def test_of_two_settings_the_distance_is_the_log_odds_of_the_win_rate() -> None:
    scores = [1] * 300 + [0] * 100 + [-1] * 100  # a wins 0.7
    ranking = bradley_terry(verdicts(scores, scores), samples=20)
    strong, weak = ranking.strengths[0], ranking.strengths[1]
    assert strong.log_odds.value - weak.log_odds.value == pytest.approx(np.log(0.7 / 0.3), rel=1e-3)
    assert strong.elo.value - weak.elo.value == pytest.approx(400 * np.log10(0.7 / 0.3), rel=1e-3)
    assert strong.elo.value + weak.elo.value == pytest.approx(2000)


def league(strengths: list[float], pairs: list[tuple[int, int]], prompts: int = 300, seed: int = 11) -> Verdicts:
    rng = np.random.default_rng(seed)
    a, b = np.array(pairs).repeat(prompts, axis=0).T
    better = np.array(strengths)[a] - np.array(strengths)[b]
    return judged(better, rng, a=a, b=b, prompt=np.tile(np.arange(prompts), len(pairs)))


def test_known_strengths_are_found_though_not_all_pairs_met() -> None:
    strengths = [-1.0, 0.2, 0.8, 0.0]
    ranking = bradley_terry(league(strengths, [(0, 1), (2, 1), (2, 3)]))
    for setting, each in ranking.strengths.items():
        assert near(each.log_odds, strengths[setting]) and each.log_odds.high - each.log_odds.low < 0.5
    gap = ranking.strengths[2].log_odds.value - ranking.strengths[0].log_odds.value  # they never met
    assert expit(gap) == pytest.approx(expit(1.8), abs=0.06)


@pytest.mark.proof
def test_intervals_of_strengths_cover_the_truth() -> None:
    strengths = [-1.0, 0.2, 0.8, 0.0]
    rankings = [bradley_terry(league(strengths, [(0, 1), (2, 1), (2, 3)], seed=seed), 300) for seed in range(200)]
    for setting, truth in enumerate(strengths):
        intervals = [ranking.strengths[setting].log_odds for ranking in rankings]
        held = sum(each.low < truth < each.high for each in intervals)
        assert binomtest(held, 200, 0.95).pvalue > 0.001


def test_settings_without_a_chain_of_comparisons_have_no_order() -> None:
    ranking = bradley_terry(league([0, 1, 2, 3], [(0, 1), (3, 2)], prompts=20))
    assert ranking.strengths == {} and ranking.groups == [[0, 1], [2, 3]] and not ranking.bounded


def test_verdicts_in_one_order_alone_order_no_setting() -> None:
    found = league([0, 1, 2], [(0, 1), (1, 2)], prompts=20)
    ranking = bradley_terry(replace(found, backward=np.full(40, np.nan)), samples=20)
    assert ranking.strengths == {} and ranking.groups == [] and not ranking.bounded


def test_a_setting_that_never_lost_is_first_at_a_distance_that_only_the_ridge_sets() -> None:
    found = league([0, 0, 0], [(0, 1), (1, 2), (0, 2)], prompts=50)
    wins = np.where(found.b == 2, -1.0, found.forward)
    ranking = bradley_terry(
        verdicts(wins, np.where(found.b == 2, -1.0, found.backward), a=found.a, b=found.b, prompt=found.prompt),
        samples=50,
    )
    assert not ranking.bounded and next(iter(ranking.strengths)) == 2
    assert all(np.isfinite(each.log_odds.value) for each in ranking.strengths.values())
    assert bradley_terry(found, samples=20).bounded
