"""Bradley-Terry strengths against scikit-learn and closed forms."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

from psychocounsel.evaluation.statistics.bradley_terry import bradley_terry
from psychocounsel.evaluation.statistics.paired_verdicts import Verdicts
from psychocounsel.evaluation.statistics.weighted_logistic import RIDGE
from tests.evaluation.statistics.simulated import judged, near, random_verdicts, verdicts


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
