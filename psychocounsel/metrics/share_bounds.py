"""One-sided confidence bounds of a share and of the difference of two paired shares.

Counts may be fractions, because a cluster of cases may contribute its mean.
"""

from collections.abc import Callable

import numpy as np

LEVEL = 0.95


def upper_bound(failures: float, cases: float, level: float = LEVEL) -> float:
    """Return the one-sided exact upper bound of a failure rate (Clopper and Pearson 1934); 1 without cases.

    The bound is the `level` quantile of the beta distribution with parameters failures + 1 and cases - failures.
    `failures` may be the sum of values in [0, 1] of independent clusters; the quantile then interpolates between whole
    counts. Such values vary less than failures of the same rate that are 0 or 1, so the bound keeps its level
    (docs/gate.md describes the check).
    """
    from scipy.stats import beta

    return 1.0 if failures >= cases else float(beta.ppf(level, failures + 1, cases - failures))


def lower_bound(failures: float, cases: float, level: float = LEVEL) -> float:
    """Return the one-sided exact lower bound of a failure rate: 1 - `upper_bound` of the cases without failure."""
    return 1 - upper_bound(cases - failures, cases, level)


def tango(worse: np.ndarray, better: np.ndarray, items: float, margin: float) -> np.ndarray:
    """Return Tango's (1998) score statistic for the hypothesis share(worse) - share(better) = `margin`.

    If the variance under the hypothesis is 0, the score is 0 at the observed difference and otherwise infinite.

    Args:
        worse: number of items that got worse.
        better: number of items that got better.
        items: number of all paired items.
        margin: hypothetical difference.
    """
    linear = -worse - better + (2 * items - worse + better) * margin
    root = np.sqrt(np.maximum(linear**2 + 8 * items * better * margin * (1 - margin), 0))
    share = (root - linear) / (4 * items)
    distance, variance = worse - better - items * margin, items * (2 * share + margin * (1 - margin))
    certain = np.where(np.abs(distance) < 1e-9, 0.0, np.copysign(np.inf, distance))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 1e-14, distance / np.sqrt(np.abs(variance)), certain)


def difference_upper(worse: float, better: float, items: float, level: float = LEVEL) -> float:
    """Return the one-sided upper score bound of share(worse) - share(better) (Tango 1998); 1 without cases.

    The bound is the difference whose score equals the normal quantile of `level`, negated. `worse` and `better` may be
    sums of the positive and of the negative differences of clusters. If nearly all differences have one sign, the score
    bound alone is too low (at 52 cases it fails in 7 % instead of 5 %). Therefore the result is at least `upper_bound`
    of worse - better, unless this difference is negative. With worse = better = 0 the score bound is z^2 / (n + z^2)
    and the exact bound 1 - (1 - level)^(1/n).
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    observed = (worse - better) / items if items else 1.0
    if observed >= 1:
        return 1.0
    quantile = float(norm.ppf(level))

    def excess(difference: float) -> float:
        return float(tango(np.array(worse), np.array(better), items, difference)) + quantile

    edge = 1 - 1e-12
    score = float(brentq(excess, observed, edge)) if excess(edge) < 0 else 1.0
    return max(score, upper_bound(worse - better, items, level)) if worse >= better else score


def difference_lower(worse: float, better: float, items: float, level: float = LEVEL) -> float:
    """Return the one-sided lower score bound of share(worse) - share(better); -1 without cases.

    The arguments are those of `difference_upper`.
    """
    return -difference_upper(better, worse, items, level)


def first_that_holds(holds: Callable[[int], bool], least: int, most: int) -> int | None:
    """Return the smallest integer from `least` to `most` for which `holds` is True; None if none exists.

    `holds` must be monotonic: once True, it stays True for all larger numbers.
    """
    if least > most or not holds(most):
        return None
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if holds(middle) else (middle + 1, most)
    return least
