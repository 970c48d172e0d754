"""One-sided bounds of a share, and of the difference of two paired shares; counts may be fractions (means of clusters)."""

from collections.abc import Callable

import numpy as np

LEVEL = 0.95


def upper_bound(failures: float, cases: float, level: float = LEVEL) -> float:
    """The one-sided exact upper bound of a failure rate (Clopper and Pearson 1934); 1 without a case.

    `failures` may be the sum of values between 0 and 1 of independent clusters: the quantile of the beta distribution then
    interpolates between whole counts. Values within [0, 1] vary less than failures of the same rate that are 0 or 1, so the
    bound keeps its level (docs/gate.md says how that was checked).
    """
    from scipy.stats import beta

    return 1.0 if failures >= cases else float(beta.ppf(level, failures + 1, cases - failures))


def lower_bound(failures: float, cases: float, level: float = LEVEL) -> float:
    """The one-sided exact lower bound of a failure rate; as `upper_bound` of the cases without failure."""
    return 1 - upper_bound(cases - failures, cases, level)


def tango(worse: np.ndarray, better: np.ndarray, items: float, margin: float) -> np.ndarray:
    """Tango's (1998) score of the hypothesis that the share of `worse` less that of `better` cases is `margin`.

    Where the variance under the hypothesis is 0, the score is 0 for the observed difference and else infinite.
    """
    linear = -worse - better + (2 * items - worse + better) * margin
    root = np.sqrt(np.maximum(linear**2 + 8 * items * better * margin * (1 - margin), 0))
    share = (root - linear) / (4 * items)
    distance, variance = worse - better - items * margin, items * (2 * share + margin * (1 - margin))
    certain = np.where(np.abs(distance) < 1e-9, 0.0, np.copysign(np.inf, distance))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 1e-14, distance / np.sqrt(np.abs(variance)), certain)


def difference_upper(worse: float, better: float, items: float, level: float = LEVEL) -> float:
    """The one-sided upper score bound of the share of `worse` less that of `better` cases (Tango 1998); 1 without a case.

    It is the difference whose score is the quantile of the normal distribution. `worse` and `better` may be sums of the
    positive, and of the negative, differences of clusters. The score bound alone is too low where nearly all differences are
    of one sign (at 52 cases it fails in 7 % in the place of 5 %), so `upper_bound` of worse - better is its floor, unless this
    is negative. Without a difference the two are z^2 / (n + z^2) and 1 - (1 - level)^(1/n).
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
    """The one-sided lower score bound of the same difference; -1 without a case."""
    return -difference_upper(better, worse, items, level)


def first_that_holds(holds: Callable[[int], bool], least: int, most: int) -> int | None:
    """The smallest whole number between `least` and `most` for which `holds`, which holds for all larger ones; None: for none."""
    if least > most or not holds(most):
        return None
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if holds(middle) else (middle + 1, most)
    return least
