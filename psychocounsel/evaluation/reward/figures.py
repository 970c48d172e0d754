"""Figures of one reward model from its margins: calibration, reliability, risk-coverage curve, slices and flipped pairs."""

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from psychocounsel.counsel.traits import NONE, read_risk_rules, read_topics
from psychocounsel.data.messages import client_text
from psychocounsel.data.rows import Example
from psychocounsel.data.shared_text import components_of, normalised, same_texts
from psychocounsel.metrics.intervals import TWO_SIDED_LEVEL, bootstrap, mean_interval
from psychocounsel.metrics.rewards import (
    BINS,
    binned_error,
    both_orders,
    calibration_interval,
    pair_metrics,
    width_bins,
    wins,
)

# Calibration slope and intercept: the logistic regression of the label on the margin (Cox 1958, Biometrika 45).
#
# With a slope of 1, margins are correct log-odds. Below 1 they are too large, above 1 too small.


def calibration_line(ids: Sequence[str], margins: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """Return `calibration_slope` and `calibration_intercept` with their 95 % intervals (`_low`, `_high`).

    Each pair counts once, in the order that a hash of its id selects, because over both orders the intercept would be 0 by
    symmetry. In this random order, the intercept differs from 0 only by chance, so its interval should contain 0. The
    intervals use Student's t and a covariance that allows dependent pairs within a cluster (Liang and Zeger 1986, with the
    usual correction for few clusters).

    Args:
        ids: ids of the pairs.
        margins: float[n], r_chosen - r_rejected.
        clusters: number of each pair's cluster, int[n].

    Returns:
        The six figures; {} if no finite estimate exists, for example because every pair is right, every pair is wrong,
        all margins are 0, or there is only one cluster.
    """
    from scipy.special import stdtrit

    names = ("calibration_intercept", "calibration_slope")
    signs = orientation(ids)
    fitted = logistic_fit(signs * margins, (signs > 0).astype(np.float64), clusters)
    if fitted is None:
        return {}
    figures: dict[str, float] = {}
    quantile = stdtrit(len(np.unique(clusters)) - 1, (1 + TWO_SIDED_LEVEL) / 2)
    for name, value, error in zip(names, *fitted, strict=True):
        figures |= {
            name: float(value),
            f"{name}_low": float(value - quantile * error),
            f"{name}_high": float(value + quantile * error),
        }
    return figures


def orientation(ids: Sequence[str]) -> np.ndarray:
    """Return 1 for pairs shown with the chosen reply first, otherwise -1, float64[n], by a bit of the id's SHA-256."""
    return np.array([1.0 if hashlib.sha256(pair_id.encode()).digest()[0] & 1 else -1.0 for pair_id in ids])


def logistic_fit(x: np.ndarray, y: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return intercept and slope by maximum likelihood, float64[2], and their cluster-robust standard errors, float64[2].

    None if the likelihood has no maximum, slope and intercept cannot be separated, or there are fewer than two clusters.
    """
    from scipy.optimize import minimize

    _, cluster = np.unique(clusters, return_inverse=True)
    groups = int(cluster.max()) + 1 if len(x) else 0
    if groups < 2 or _separated(x, y):
        return None
    # Scaled margins, so that the optimizer sees coefficients of one size for margins of any size.
    scale = float(np.abs(x).mean())
    design = np.column_stack([np.ones(len(x)), x / scale])

    def loss(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        logits = design @ coefficients
        gradient = design.T @ (_sigmoid(logits) - y)
        return float((np.logaddexp(0, logits) - y * logits).mean()), gradient / len(y)

    def information(coefficients: np.ndarray) -> np.ndarray:
        p = _sigmoid(design @ coefficients)
        return np.asarray((design * (p * (1 - p))[:, None]).T @ design)

    def hessian(coefficients: np.ndarray) -> np.ndarray:
        return information(coefficients) / len(y)

    optimum = minimize(loss, np.zeros(2), jac=True, hess=hessian, method="trust-exact", options={"gtol": 1e-10})
    coefficients = optimum.x
    if np.linalg.cond(information(coefficients)) > 1e12:
        return None
    scores = np.zeros((groups, 2))
    np.add.at(scores, cluster, design * (y - _sigmoid(design @ coefficients))[:, None])
    bread = np.linalg.inv(information(coefficients))
    correction = groups / (groups - 1) * (len(x) - 1) / (len(x) - 2) if len(x) > 2 else 1.0
    errors = np.sqrt(np.diag(bread @ scores.T @ scores @ bread) * correction)
    return coefficients / [1, scale], errors / [1, scale]


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(logits / 2)))


def _separated(x: np.ndarray, y: np.ndarray) -> bool:
    """Return True if all labels or all x are equal, or a threshold of x separates the labels: no finite slope exists."""
    ones, zeros = x[y == 1], x[y == 0]
    if not len(ones) or not len(zeros) or x.min() == x.max():
        return True
    return bool(ones.min() >= zeros.max() or ones.max() <= zeros.min())


# Reliability diagrams: predicted against observed frequency, in bins of equal width and in bins of equal mass.
#
# A pair with the margin m = r_chosen - r_rejected counts in both orders, as in `pair_metrics`: p = sigmoid(m) with
# label 1 and 1 - p with label 0. The diagrams are therefore symmetric about 0.5, and a bin holds a pair once (twice at p = 0.5).

Figures = dict[str, Any]


def reliability(margins: np.ndarray) -> Figures:
    """Return the bins of both diagrams, `equal_width` and `equal_mass`, from low to high p. `margins`: float[n].

    A bin has its edges `from` and `to`, `mean_p`, `right` (the share with label 1), `low` and `high` (Wilson's 95 % interval
    of `right`, as if pairs were independent) and `n`. Empty bins are omitted.
    """
    p, labels = both_orders(margins)
    return {
        "equal_width": _bins(p, labels, width_bins(p), np.arange(BINS + 1) / BINS),
        "equal_mass": _bins(p, labels, *mass_bins(p)),
    }


def adaptive_ece(margins: np.ndarray) -> float:
    """Return the expected calibration error in ten bins of equal mass (adaptive calibration error, arXiv 1904.01685).

    Every pair counts in both orders. `margins`: float[n].
    """
    return binned_error(margins, adaptive_bins)


def adaptive_bins(p: np.ndarray) -> np.ndarray:
    """Return the bin of each prediction, int64[n], among ten bins of equal mass."""
    return mass_bins(p)[0]


def mass_bins(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bin of each prediction, int64[n], and the bins' edges, float64[11], which are the deciles of p.

    Equal predictions share a bin.
    """
    edges = np.quantile(p, np.linspace(0, 1, BINS + 1))
    return np.searchsorted(edges[1:-1], p), edges


def _bins(p: np.ndarray, labels: np.ndarray, bins: np.ndarray, edges: np.ndarray) -> list[Figures]:
    from scipy.stats import binomtest

    n = np.bincount(bins, minlength=BINS)
    filled = np.flatnonzero(n)
    right = np.bincount(bins, labels, BINS)[filled]
    tests = [binomtest(round(hits), of) for hits, of in zip(right.tolist(), n[filled].tolist(), strict=True)]
    columns = np.column_stack(
        [
            *(edges[filled], edges[filled + 1], np.bincount(bins, p, BINS)[filled] / n[filled], right / n[filled]),
            np.array([test.proportion_ci(method="wilson") for test in tests]),
        ]
    )
    names = ("from", "to", "mean_p", "right", "low", "high")
    return [
        {**dict(zip(names, row, strict=True)), "n": count}
        for row, count in zip(columns.tolist(), n[filled].tolist(), strict=True)
    ]


# Risk-coverage curve: the error rate of a reward model on the pairs of which it is most certain (largest |margin|).

COVERAGES = (0.5, 0.8, 0.9)
_POINTS = 100


def risks(margins: np.ndarray) -> np.ndarray:
    """Return the error rate on the k pairs with the largest |margin|, for k = 1 to n, float64[n].

    `margins`: float[n], r_chosen - r_rejected. A margin of 0 is half an error. Pairs with equal |margin| have no order, so
    each of them counts with their mean error, which is the expectation over all orders.
    """
    size = np.abs(margins)
    order = np.argsort(-size, kind="stable")
    wrong = ((margins < 0) + 0.5 * (margins == 0))[order]
    _, start, count = np.unique(-size[order], return_index=True, return_counts=True)
    mean = np.repeat(np.add.reduceat(wrong, start) / count, count)
    return np.asarray(np.cumsum(mean) / np.arange(1, len(margins) + 1))


def aurc(margins: np.ndarray) -> float:
    """Return the area under the risk-coverage curve, the mean of `risks` (arXiv 1805.08206); 0 is best."""
    return float(risks(margins).mean())


def accuracy_at(margins: np.ndarray, coverage: float) -> float:
    """Return the accuracy on the `coverage` share of pairs with the largest |margin|; their number is rounded up."""
    return float(1 - risks(margins)[_kept(len(margins), coverage) - 1])


def risk_coverage_curve(margins: np.ndarray) -> list[dict[str, float]]:
    """Return at most 100 points of the curve: `coverage`, its `accuracy`, and `margin`, the smallest |margin| included."""
    errors, size = risks(margins), -np.sort(-np.abs(margins))
    kept = sorted({_kept(len(margins), point / _POINTS) for point in range(1, _POINTS + 1)})
    return [
        {"coverage": k / len(margins), "accuracy": float(1 - errors[k - 1]), "margin": float(size[k - 1])} for k in kept
    ]


def coverage_figures(margins: np.ndarray, clusters: Sequence[Hashable], samples: int) -> dict[str, float]:
    """Return `aurc` and `accuracy_at_50`, `_80`, `_90` (per cent of pairs), each with its bootstrap interval over clusters.

    The intervals have the endings `_low` and `_high`.
    """
    metrics: dict[str, Callable[[np.ndarray], float]] = {"aurc": aurc}
    surest, trials = np.argsort(-np.abs(margins), kind="stable"), {"aurc": 0}
    for coverage in COVERAGES:
        name = f"accuracy_at_{round(100 * coverage)}"
        trials[name] = len({clusters[row] for row in surest[: _kept(len(margins), coverage)]})
        metrics[name] = lambda subset, coverage=coverage: accuracy_at(subset, coverage)  # type: ignore[misc]
    figures = dict[str, float]()
    for name, metric in metrics.items():
        low, high = bootstrap(lambda rows, metric=metric: metric(margins[rows]), clusters, samples, trials=trials[name])  # type: ignore[misc]
        figures |= {name: metric(margins), f"{name}_low": low, f"{name}_high": high}
    return figures


def _kept(count: int, coverage: float) -> int:
    # Rounded first, because 0.8 * 35 is 28.000000000000004.
    return int(np.ceil(round(count * coverage, 9)))


# All figures of one reward model, computed from its margins.


def reward_figures(
    ids: Sequence[str], margins: np.ndarray, component: np.ndarray, samples: int = 1000
) -> dict[str, float]:
    """Return every figure of docs/rewards.md that depends on margins alone, each with its 95 % interval (`_low`, `_high`).

    `margins`: float[n], r_chosen - r_rejected of unnormalised rewards. `component`: int[n]; intervals are over components.
    `samples`: number of resamples. `calibration_slope` and `calibration_intercept` are omitted if they have no finite estimate.
    """
    clusters = component.tolist()
    low, high = calibration_interval(margins, clusters, adaptive_bins, samples)
    return {
        **pair_metrics(margins.tolist(), [0.0] * len(margins), clusters, samples),
        **{"ece_adaptive": adaptive_ece(margins), "ece_adaptive_low": low, "ece_adaptive_high": high},
        **calibration_line(ids, margins, component),
        **coverage_figures(margins, clusters, samples),
    }


# Accuracy of a reward model on slices of the pairs: by topic, crisis, gap of ratings, and difference in length.


FEW = 20  # components; with fewer, an interval is not reliable
_EQUAL_LENGTH = 0.1  # replies count as equally long up to this difference [share of the longer reply]
_GAPS = (0.125, 0.25, 0.5)  # shares of the rating range: 0.5, 1 and 2 points on a scale from 1 to 5


def pair_slices(
    examples: Sequence[Example], margins: np.ndarray, component: np.ndarray, rating_range: Sequence[float]
) -> Figures:
    """Return the slices `topic`, `crisis`, `risk`, `length`, and `gap` if all pairs have ratings.

    Each is {"by": ..., "slices": ...}. `slices` maps the name of a slice to its figures: `accuracy` (a tie counts half)
    with a 95 % interval by components (`low`, `high`), `pairs`, `components`, and `few`, which is true below 20
    components. `by` counts the pairs by the source of their slice's name: a `column` of the data, `rules` (English cues
    of `psychocounsel/counsel/`), `texts`, or `ratings`.

    Args:
        examples: n pairs, chosen reply first.
        margins: float[n], r_chosen - r_rejected.
        component: int[n]; pairs of two components share no text.
        rating_range: lowest and highest rating.
    """
    won = wins(margins)
    kinds = {
        "topic": [_topic(example) for example in examples],
        "crisis": [_crisis(example) for example in examples],
        "risk": [_risk(example) for example in examples],
        "gap": _gaps(examples, rating_range),
        "length": [(_length(example), "texts") for example in examples],
    }
    return {
        kind: {
            "by": dict(Counter(by for _, by in named)),
            "slices": _slices([name for name, _ in named], won, component),
        }
        for kind, named in kinds.items()
        if named
    }


def _slices(names: Sequence[str], won: np.ndarray, component: np.ndarray) -> Figures:
    slices, column = {}, np.array(names)
    for name in _ordered(names):
        rows = np.flatnonzero(column == name)
        low, high = mean_interval(won[rows], component[rows], shares=True)
        components = len(np.unique(component[rows]))
        slices[name] = {
            **{"accuracy": float(won[rows].mean()), "low": low, "high": high},
            **{"pairs": len(rows), "components": components, "few": components < FEW},
        }
    return slices


def _ordered(names: Iterable[str]) -> list[str]:
    """Return the names of the slices, the largest slice first."""
    return [name for name, _ in sorted(Counter(names).items(), key=lambda item: (-item[1], item[0]))]


def _topic(example: Example) -> tuple[str, str]:
    if example.topic:
        return example.topic, "column"
    return read_topics().of(client_text(example.prompt)).coarse or "unknown", "rules"


def _risk(example: Example) -> tuple[str, str]:
    risk = read_risk_rules(may_clear=True).of(client_text(example.prompt), example.risk)
    return risk.kind, risk.source


def _crisis(example: Example) -> tuple[str, str]:
    kind, by = _risk(example)
    return "no" if kind == NONE else "yes", by


def _gaps(examples: Sequence[Example], rating_range: Sequence[float]) -> list[tuple[str, str]]:
    """Return the slice of each pair by the difference of its mean ratings; [] if a pair has no ratings."""
    edges = [share * (rating_range[1] - rating_range[0]) for share in _GAPS]
    names = [f"under {edges[0]:g}", *(f"{low:g} to {high:g}" for low, high in pairwise(edges))]
    names.append(f"{edges[-1]:g} or more")
    slices = []
    for example in examples:
        if not example.scores:
            return []
        # Rounded, because mean ratings carry floating-point errors.
        gap = round(abs(example.scores[0] - example.scores[1]), 9)
        slices.append((names[sum(gap >= edge for edge in edges)], "ratings"))
    return slices


def _length(example: Example) -> str:
    chosen, rejected = (len(reply) for reply in example.replies[:2])
    if abs(chosen - rejected) <= _EQUAL_LENGTH * max(chosen, rejected):
        return "about equal"
    return "chosen is longer" if chosen > rejected else "chosen is shorter"


# Flipped pairs: the same two replies under two prompts, with the opposite reply chosen.
#
# A scorer that ignores the client gives a reply the same score under both prompts, so it wins exactly half of these
# pairs.


def flipped_rows(examples: Sequence[Example]) -> np.ndarray:
    """Return the row numbers of all flipped pairs, int64[n].

    A pair is flipped if another pair with another prompt has the same replies with chosen and rejected exchanged.
    """
    texts = same_texts([reply for example in examples for reply in example.replies[:2]]).reshape(-1, 2).tolist()
    prompts = [normalised(example.prompt) for example in examples]
    by_pair: dict[tuple[int, int], set[str]] = {}
    for (chosen, rejected), prompt in zip(texts, prompts, strict=True):
        by_pair.setdefault((chosen, rejected), set()).add(prompt)
    rows = zip(texts, prompts, strict=True)
    kept = [row for row, ((chosen, rejected), own) in enumerate(rows) if by_pair.get((rejected, chosen), set()) - {own}]
    return np.array(kept, np.int64)


def flipped_figures(examples: Sequence[Example], margins: np.ndarray) -> dict[str, float]:
    """Return the number of flipped pairs, and `flipped_accuracy` with its 95 % interval (`_low`, `_high`).

    `margins`: float[len(examples)], r_chosen - r_rejected. A tie counts half. The interval is over components of
    pairs that share text. The result is {} if no pair is flipped.
    """
    rows = flipped_rows(examples)
    if not len(rows):
        return {}
    won = wins(margins[rows])
    component = components_of([examples[row] for row in rows])
    low, high = mean_interval(won, component, shares=True)
    return {
        "flipped_pairs": len(rows),
        "flipped_accuracy": float(won.mean()),
        "flipped_accuracy_low": low,
        "flipped_accuracy_high": high,
    }
