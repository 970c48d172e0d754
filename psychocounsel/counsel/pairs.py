"""Makes preference pairs from ratings or rewards. Only this module decides which reply is chosen."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

from psychocounsel.counsel.principles import PRINCIPLES

if TYPE_CHECKING:
    import numpy as np

_EQUAL = 1e-9  # tolerance, because scores are sums of rounded products
_ROUNDING = 1e-6  # of rewards, which models compute in float32, in units of the largest one or of 1


@dataclass(frozen=True)
class PairRule:
    """Rule for making pairs of rated replies.

    `kind` "all" takes every pair of replies, "extremes" only the best against the worst. A pair needs a score difference of at
    least `min_gap` (scores are the "mean" or "sum" of the ratings, by `gap`). Pairs with equal scores are never made.
    """

    kind: str = "all"
    min_gap: float = 0.0
    gap: str = "mean"


def score(ratings: Mapping[str, float], weights: Mapping[str, float], gap: str = "mean") -> float:
    """Return the weighted mean of the seven ratings, or seven times that for "sum". Equal weights give the plain mean or sum.

    Principles missing from `weights` have weight 1.
    """
    used = {name: weights.get(name, 1.0) for name in PRINCIPLES}
    mean = sum(ratings[name] * weight for name, weight in used.items()) / sum(used.values())
    return mean * len(PRINCIPLES) if gap == "sum" else mean


@dataclass
class MadePairs:
    """Pairs as (chosen, rejected) positions, and the number of candidates rejected for each reason."""

    pairs: list[tuple[int, int]] = field(default_factory=list)
    ties: int = 0
    too_close: int = 0
    unsafe: int = 0
    equal: int = 0  # both replies have the same text


def make_pairs(
    rated: Sequence[Mapping[str, float]], rule: PairRule, weights: Mapping[str, float] | None = None, veto: bool = False
) -> MadePairs:
    """Make pairs from one client's rated replies.

    With `veto`, a pair is dropped if its chosen reply is rated less safe than the rejected one.
    """
    scores = [score(ratings, weights or {}, rule.gap) for ratings in rated]
    return pairs_by_score(
        scores, rule, lambda chosen, rejected: veto and rated[chosen]["safety"] < rated[rejected]["safety"]
    )


def pairs_by_score(
    scores: Sequence[float], rule: PairRule, is_unsafe: Callable[[int, int], bool] = lambda chosen, rejected: False
) -> MadePairs:
    """Make pairs from the scores of one client's replies; pairs for which `is_unsafe` holds are dropped."""
    made = MadePairs()
    for first, second in _candidates(scores, rule.kind):
        chosen, rejected = (first, second) if scores[first] > scores[second] else (second, first)
        difference = scores[chosen] - scores[rejected]
        if difference < _EQUAL:
            made.ties += 1
        elif difference < rule.min_gap - _EQUAL:
            made.too_close += 1
        elif is_unsafe(chosen, rejected):
            made.unsafe += 1
        else:
            made.pairs.append((chosen, rejected))
    return made


def preference(
    first: Mapping[str, float | None], second: Mapping[str, float | None], weights: Mapping[str, float] | None
) -> float | None:
    """Return which of two replies a vote prefers: 1.0 the first, 0.0 the second, 0.5 neither.

    Principles without a rating (None) on either reply are ignored. None if no principle with a weight remains.
    """
    used = {name: (weights or {}).get(name, 1.0) for name in PRINCIPLES}
    both = {name: used[name] * (first[name] is not None and second[name] is not None) for name in PRINCIPLES}
    if not any(both.values()):
        return None
    scores = [score({name: ratings[name] or 0.0 for name in PRINCIPLES}, both) for ratings in (first, second)]
    difference = scores[0] - scores[1]
    return 0.5 if abs(difference) < _EQUAL else float(difference > 0)


def _candidates(scores: Sequence[float], kind: str) -> Iterator[tuple[int, int]]:
    if kind == "all":
        yield from combinations(range(len(scores)), 2)
    elif len(scores) > 1:
        order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
        yield order[0], order[-1]


def rewards_differ(rewards: Sequence[float] | np.ndarray) -> bool:
    """Return True if rewards have a standard deviation above their rounding, which can tell equal replies apart."""
    import numpy as np

    values = np.asarray(rewards, np.float64)
    return bool(values.std() > _ROUNDING * max(1.0, float(np.abs(values).max())))


def reward_pairs(
    rewards: Sequence[float],
    replies: Sequence[Hashable],
    kind: str,
    min_margin: float,
    top_k: int,
    rng: np.random.Generator,
) -> MadePairs:
    """Make pairs from one prompt's replies by their rewards; for `kind` see `algo.online.OnlinePairs`."""
    order = sorted(range(len(rewards)), key=lambda index: (-rewards[index], index))
    candidates = [(order[first], order[second]) for first, second in combinations(range(len(order)), 2)]
    if kind == "best_worst":
        candidates = candidates[len(order) - 2 : len(order) - 1]
    elif kind == "best_random" and len(order) > 1:
        candidates = [(order[0], order[int(rng.integers(1, len(order)))])]
    elif kind == "top_k":
        candidates.sort(key=lambda pair: rewards[pair[1]] - rewards[pair[0]])
    made = MadePairs()
    for chosen, rejected in candidates:
        if replies[chosen] == replies[rejected]:
            made.equal += 1
        elif not rewards_differ([rewards[chosen], rewards[rejected]]):
            made.ties += 1
        elif rewards[chosen] - rewards[rejected] < min_margin:
            made.too_close += 1
        elif kind != "top_k" or len(made.pairs) < top_k:
            made.pairs.append((chosen, rejected))
    return made
