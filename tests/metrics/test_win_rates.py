"""Win rates, their intervals and tests, against scipy, loops and closed forms."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from psychocounsel.metrics.agreement import judges_agreement, position_bias
from psychocounsel.metrics.intervals import Measure, plain
from psychocounsel.metrics.regressions import bradley_terry, length_controlled
from psychocounsel.metrics.win_rates import (
    Verdicts,
    adjusted_tests,
    cluster_scores,
    holm,
    pair_figures,
    prompt_means,
    seed_figures,
    sign_flip,
    slices,
)
from tests.metrics.simulated import judged, random_verdicts, verdicts

# Both orders of a pair give one score, which does not depend on the setting that is called a.


def test_two_orders_make_one_score() -> None:
    forward, backward = [1, -1, 0, 1, -1, 1, 0, -1], [1, -1, 0, -1, 1, 0, -1, 0]
    assert verdicts(forward, backward).scores().tolist() == [1, 0, 0.5, 0.5, 0.5, 0.75, 0.25, 0.25]


def test_one_order_alone_is_no_verdict() -> None:
    found = verdicts([1, np.nan, -1], [np.nan, 1, -1])
    assert np.isnan(found.scores()).tolist() == [True, True, False]
    assert prompt_means(found).prompts.tolist() == [2] and prompt_means(found).means.tolist() == [0]


def test_exchanged_sides_have_opposite_scores_and_all_their_columns() -> None:
    found = random_verdicts(200, seed=0)
    turned = found.turned()
    np.testing.assert_allclose(turned.scores(), 1 - found.scores())
    for name in ("seed_", "length_", "question_", "formatted_", ""):
        assert (getattr(turned, f"{name}a") == getattr(found, f"{name}b")).all()
    again = turned.turned()
    assert all(np.array_equal(getattr(again, name), each, equal_nan=True) for name, each in vars(found).items())


def test_a_pair_of_settings_is_found_on_both_sides() -> None:
    found = random_verdicts(300, seed=1, settings=3)
    expected = [
        (row, score if a == 2 else 1 - score)
        for row, (a, b, score) in enumerate(zip(found.a, found.b, found.scores(), strict=True))
        if {a, b} == {0, 2} and not np.isnan(score)
    ]
    pair = found.between(2, 0).judged_rows()
    assert set(pair.a) == {2} and set(pair.b) == {0}
    assert sorted(pair.scores()) == sorted(score for _, score in expected)
    means = {int(prompt): [score for row, score in expected if found.prompt[row] == prompt] for prompt in pair.prompt}
    np.testing.assert_allclose(prompt_means(pair).means, [np.mean(means[prompt]) for prompt in sorted(means)])


@pytest.mark.parametrize(
    ("columns", "words"),
    [({"prompt": [1]}, "one length"), ({"forward": [2, 0]}, "-1, 0, 1"), ({"b": [0, 1]}, "with itself")],
)
def test_impossible_verdicts_are_refused(columns: dict[str, list[int]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        verdicts(**({"forward": [0, 1], "backward": [0, 1]} | columns))


# Win rates, intervals and seeds against scipy, loops and closed forms.


def test_win_rate_and_interval_equal_scipys() -> None:
    found = random_verdicts(600, seed=2).between(0, 1)
    figures = pair_figures(found)
    means = prompt_means(found).means
    reference = stats.bootstrap((means,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    assert figures.win_rate.value == pytest.approx(means.mean())
    assert (figures.win_rate.low, figures.win_rate.high) == pytest.approx(tuple(reference), abs=0.005)
    assert figures.rows + figures.unjudged == len(found.prompt) and figures.prompts == len(means)


def test_shares_add_up_to_the_win_rate() -> None:
    figures = pair_figures(random_verdicts(500, seed=3).between(1, 0))
    assert sum(figures.shares.values()) == pytest.approx(1)
    worth = {"won": 1, "partly_won": 0.75, "tied": 0.5, "partly_lost": 0.25, "lost": 0}
    assert sum(figures.shares[name] * each for name, each in worth.items()) == pytest.approx(figures.win_rate.value)


def test_more_samples_of_the_same_prompts_promise_no_more_certainty() -> None:
    once = judged(np.zeros(50), np.random.default_rng(0))
    four = once.where(np.tile(np.arange(50), 4))
    assert pair_figures(four).win_rate == pair_figures(once).win_rate


def test_a_setting_that_always_wins_has_the_binomial_interval() -> None:
    figures = pair_figures(verdicts(np.ones(25), np.ones(25)))
    exact = stats.binomtest(25, 25).proportion_ci()
    assert (figures.win_rate.low, figures.win_rate.high) == pytest.approx((exact.low, exact.high)) and figures.small
    turns = verdicts(np.ones(60), np.ones(60), client=np.arange(60) % 20)
    assert pair_figures(turns).small, "sixty turns of twenty clients stand for twenty clients"


def test_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(100):
        truth = 0.65
        scores = np.where(rng.random(80) < truth, 1, -1)
        found = pair_figures(verdicts(scores, scores)).win_rate
        held += found.low <= truth <= found.high
    assert stats.binomtest(held, 100, 0.95).pvalue > 0.001


def test_nothing_judged_gives_no_figure_and_valid_json() -> None:
    figures = pair_figures(verdicts([np.nan], [1]))
    assert plain(figures)["win_rate"] == {"value": None, "low": None, "high": None} and figures.unjudged == 1
    assert plain(seed_figures(verdicts([np.nan], [1])))["mean"] is None


def test_slices_are_the_figures_of_their_rows() -> None:
    found = random_verdicts(300, seed=6).between(0, 1)
    labels = {prompt: "grief" if prompt % 3 else "sleep" for prompt in range(30)}
    by_topic = slices(found, labels)
    assert list(by_topic) == ["grief", "sleep"]
    assert by_topic["sleep"] == pair_figures(found.where((found.prompt % 3 == 0) & (found.prompt < 30)))
    assert by_topic["sleep"].small and by_topic["sleep"].prompts <= 10


def test_one_seed_has_the_interval_of_prompts_and_no_spread() -> None:
    found = judged(np.full(60, 0.5), np.random.default_rng(1))
    figures, pair = seed_figures(found), pair_figures(found).win_rate
    assert (figures.n, figures.opponent_n, figures.over_seeds) == (1, 1, False) and math.isnan(figures.sd)
    assert (figures.mean, *figures.interval) == (pair.value, pair.low, pair.high)


def of_seeds(effects: list[float], prompts: int, opponents: int = 1) -> Verdicts:
    rng = np.random.default_rng(7)
    seed, prompt, opponent = (each.ravel() for each in np.indices((len(effects), prompts, opponents)))
    better = np.array(effects)[seed] + rng.normal(0, 1, prompts)[prompt]
    return judged(better, rng, prompt=prompt, seed_a=seed, seed_b=opponent)


def test_figures_over_seeds_equal_those_of_each_seed() -> None:
    found = of_seeds([-0.5, 0.2, 1.0], 90)
    figures = seed_figures(found)
    rates = [pair_figures(found.where(found.seed_a == each)).win_rate.value for each in range(3)]
    assert list(figures.by_seed.values()) == pytest.approx(rates) and figures.n == 3
    assert (figures.mean, figures.sd) == pytest.approx((np.mean(rates), np.std(rates, ddof=1)))


@pytest.mark.parametrize(("seeds", "opponents", "deviation"), [(3, 1, 0.0), (3, 1, 0.3), (3, 3, 0.3)])
def test_intervals_over_few_seeds_cover_the_truth(seeds: int, opponents: int, deviation: float) -> None:
    """Resamples of so few seeds covered 77 to 89 % of the truths if trainings differ."""
    strength = np.sqrt(1 + (1 + (opponents > 1)) * deviation**2) * np.random.default_rng(0).normal(size=10**5) + 0.5
    truth, held = float(expit(strength).mean()), 0
    for trial in range(150):
        rng = np.random.default_rng(trial)
        seed, prompt, opponent = (each.ravel() for each in np.indices((seeds, 60, opponents)))
        theirs = rng.normal(0, deviation if opponents > 1 else 0, opponents)
        better = 0.5 + rng.normal(0, 1, 60)[prompt] + rng.normal(0, deviation, seeds)[seed] - theirs[opponent]
        low, high = seed_figures(judged(better, rng, prompt=prompt, seed_a=seed, seed_b=opponent)).interval
        held += low <= truth <= high
    assert held >= 137, "of 150 intervals of 95 %, fewer hold in 5 of 1,000 cases"


def test_seeds_that_differ_widen_the_interval() -> None:
    found = of_seeds([-2.0, 0.0, 2.0], 200)
    pooled = seed_figures(replace(found, seed_a=np.zeros_like(found.seed_a))).interval
    both = seed_figures(found)
    assert both.over_seeds and both.interval[1] - both.interval[0] > 2 * (pooled[1] - pooled[0])


# Sign-flip test and Holm's adjustment against scipy, closed forms and the definition.


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
    assert holm(np.array([0.5, 0.6])) == pytest.approx([1, 1]) and not len(holm(np.array([])))
    values = np.random.default_rng(1).random(30) ** 3
    ranks = stats.rankdata(values, "ordinal")
    expected = [min(1, max((30 - ranks[j] + 1) * values[j] for j in range(30) if values[j] <= each)) for each in values]
    assert holm(values) == pytest.approx(expected)


def test_a_comparison_without_verdicts_costs_the_others_nothing() -> None:
    table = {"a": np.ones(8), "none": np.array([]), "b": np.array([1.0, 0, 1, 1, 0, 1])}
    found = adjusted_tests(table)
    assert found["a"].raw == 2 / 2**8 and found["a"].adjusted == pytest.approx(2 * found["a"].raw)
    assert np.isnan(found["none"].adjusted) and found["b"].adjusted == found["b"].raw


# Several turns of one client


def test_equal_turns_of_a_session_promise_no_more_than_one_of_them() -> None:
    rng, count = np.random.default_rng(5), 60
    sides, lengths = rng.choice([1, 0, -1], count, p=[0.5, 0.2, 0.3]), rng.integers(50, 150, count)
    alone = verdicts(sides, sides, length_a=lengths)
    turns = {"length_a": np.repeat(lengths, 6), "client": np.repeat(np.arange(count), 6)}
    sessions = verdicts(np.repeat(sides, 6), np.repeat(sides, 6), **turns)
    assert (pair_figures(sessions).prompts, pair_figures(alone).prompts) == (6 * count, count)
    for name, figure in {
        "win rate": lambda found: pair_figures(found).win_rate,
        "over seeds": lambda found: Measure(0, *seed_figures(found).interval),
        "at equal length": lambda found: length_controlled(found).win_rate,
        "strength": lambda found: bradley_terry(found).strengths[0].log_odds,
        "position": lambda found: position_bias(found).inconsistent,
    }.items():
        of_all, of_one = figure(sessions), figure(alone)
        assert (of_all.low, of_all.high) == pytest.approx((of_one.low, of_one.high), abs=0.02), name
    means = [prompt_means(found) for found in (sessions, alone)]
    p, of_one = (sign_flip(cluster_scores(each.means - 0.5, each.clients)) for each in means)
    assert p == of_one and sign_flip(means[0].means) < p / 10
    both = {name: np.tile(getattr(sessions, name), 2) for name in ("prompt", "client", "forward", "backward")}
    agreed = judges_agreement(verdicts(**both, judge=np.repeat([0, 1], 6 * count)), 0, 1)
    assert (agreed.rows, agreed.prompts) == (6 * count, 6 * count)
    assert agreed.raw.low == pytest.approx(0.025 ** (1 / count)), "sixty clients of whom all agree"
