"""`make_pairs` compared with a direct implementation of the definition."""

import itertools
import random

import pytest

from psychocounsel.counsel.pairs import MadePairs, PairRule, make_pairs, score
from psychocounsel.counsel.principles import PRINCIPLES

NAMES = list(PRINCIPLES)


def by_definition(
    rated: list[dict[str, float]], rule: PairRule, weights: dict[str, float], veto: bool
) -> tuple[set[tuple[int, int]], list[int]]:
    """Pairs, and counts of [ties, too close, unsafe], in whole numbers (weights and gaps here are multiples of 1/4)."""
    whole = {name: round(4 * weights.get(name, 1)) for name in NAMES}
    scores = [sum(round(ratings[name]) * whole[name] for name in NAMES) for ratings in rated]
    unit = sum(whole.values()) / (7 if rule.gap == "sum" else 1)  # whole score per point of the gap
    candidates = list(itertools.permutations(range(len(rated)), 2))
    if rule.kind == "extremes":
        best, worst = scores.index(max(scores)), len(scores) - 1 - scores[::-1].index(min(scores))
        candidates = [(best, worst), (worst, best)] if len(scores) > 1 else []
    pairs, counts = set(), [0, 0, 0]
    for chosen, rejected in candidates:
        gap = scores[chosen] - scores[rejected]
        if gap == 0:
            counts[0] += chosen < rejected or rule.kind == "extremes"
        elif gap < 0:
            continue
        elif gap < rule.min_gap * unit - 1e-6:
            counts[1] += 1
        elif veto and rated[chosen]["safety"] < rated[rejected]["safety"]:
            counts[2] += 1
        else:
            pairs.add((chosen, rejected))
    if rule.kind == "extremes":
        counts[0] = min(counts[0], 1)
    return pairs, counts


@pytest.mark.parametrize("kind", ["all", "extremes"])
@pytest.mark.parametrize("gap", ["mean", "sum"])
@pytest.mark.parametrize("veto", [False, True])
def test_pairs_and_counts_are_those_of_the_definition(kind: str, gap: str, veto: bool) -> None:
    rng = random.Random(7)
    seen = MadePairs()
    for _ in range(400):
        rated = [{name: float(rng.randint(2, 4)) for name in NAMES} for _ in range(rng.randint(1, 5))]
        weights = {name: rng.randint(0, 8) / 4 for name in rng.sample(NAMES, rng.randint(0, 5))}
        rule = PairRule(kind, rng.choice([0, 0.25, 0.5, 1]) * (7 if gap == "sum" else 1), gap)
        made = make_pairs(rated, rule, weights, veto)
        pairs, counts = by_definition(rated, rule, weights, veto)
        assert set(made.pairs) == pairs
        assert len(made.pairs) == len(pairs)
        assert [made.ties, made.too_close, made.unsafe] == counts
        seen.pairs += made.pairs
        seen.too_close += made.too_close
        seen.unsafe += made.unsafe
    assert len(seen.pairs) > 100
    assert seen.too_close > 50
    assert (seen.unsafe > 10) == veto


def test_scores_are_means_or_sums() -> None:
    ratings = {name: float(value) for name, value in zip(NAMES, (5, 4, 3, 2, 1, 1, 5), strict=True)}
    assert score(ratings, {}) == pytest.approx(3)
    assert score(ratings, {}, "sum") == pytest.approx(21)
    assert score(ratings, {"empathy": 8}) == pytest.approx((21 + 7 * 5) / 14)
    assert score(ratings, {name: 0 for name in NAMES if name != "safety"}) == pytest.approx(2)


def test_equal_scores_make_no_pair_though_their_products_are_rounded() -> None:
    weights = dict.fromkeys(NAMES, 0.1)
    first = dict(zip(NAMES, [3, 4, 3, 5, 2, 5, 2], strict=True))
    second = dict(zip(NAMES, [2, 2, 3, 3, 4, 5, 5], strict=True))
    assert score(first, weights) != score(second, weights)  # because of rounding
    assert make_pairs([first, second], PairRule(), weights).ties == 1


def test_a_gap_of_exactly_the_minimum_counts() -> None:
    first, second = dict.fromkeys(NAMES, 4.0), dict.fromkeys(NAMES, 3.0)
    weights = {"empathy": 0.1, "safety": 0.7}
    assert make_pairs([second, first], PairRule(min_gap=1.0), weights).pairs == [(1, 0)]
    assert make_pairs([second, first], PairRule(min_gap=7.0, gap="sum"), weights).pairs == [(1, 0)]
    assert make_pairs([second, first], PairRule(min_gap=1.001), weights).pairs == []
