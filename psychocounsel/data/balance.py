"""Weights of training pairs that make kinds of pairs count equally (`data.balance`)."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from psychocounsel.counsel.cues import cue_values
from psychocounsel.data.group import Group
from psychocounsel.errors import UserError

# Calibration of pair weights: weights as equal as possible under which cues do not predict the chosen reply.
#
# A cue's sign for a pair is 1 if the chosen reply has the larger value, -1 if the rejected reply has, and 0 for a
# tie. Consider all weights w with mean 1 and 0 <= w <= `largest` under which the weighted signs of each cue sum to 0.
# Among these we take the weights with the least sum of (w - 1)^2, which have the largest effective sample size. This
# is calibration by the truncated linear method (Deville and Sarndal 1992, "Calibration estimators in survey
# sampling").

_TOLERANCE = 1e-9  # largest error of the weighted mean of a cue's signs
_STEPS = 200
_DIGITS = 6  # rounding hides differences between machines, so that a run can be resumed on another one


def balanced_weights(signs: np.ndarray, largest: float) -> np.ndarray | None:
    """Return the calibrated weights, float64[n], of pairs with `signs`, int[n, cues]; None if none are found.

    The solution is w = clip(z . theta, 0, largest) with z = (1, signs). The multipliers theta minimise a convex
    function; Newton's method finds them. Pairs with the same signs have the same weight, so the computation uses
    distinct rows.
    """
    rows, where, counts = np.unique(signs, axis=0, return_inverse=True, return_counts=True)
    z, share = np.column_stack([np.ones(len(rows)), rows]), counts / counts.sum()
    target = np.zeros(z.shape[1])
    target[0] = 1.0
    theta = target.copy()
    for _ in range(_STEPS):
        weights = np.clip(z @ theta, 0.0, largest)
        gradient = z.T @ (share * weights) - target
        if np.abs(gradient).max() < _TOLERANCE:
            return np.round(weights, _DIGITS)[where.reshape(-1)]
        free = share * ((z @ theta > 0) & (z @ theta < largest))
        curvature = z.T @ (free[:, None] * z) + 1e-9 * np.eye(len(theta))
        theta = _line_search(theta, -np.linalg.solve(curvature, gradient), gradient, z, share, largest)
    return None


def effective_size(weights: np.ndarray) -> float:
    """Return the effective sample size (sum of w)^2 / sum of w^2 [equally weighted pairs] (Kish 1965)."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def _line_search(
    theta: np.ndarray, step: np.ndarray, gradient: np.ndarray, z: np.ndarray, share: np.ndarray, largest: float
) -> np.ndarray:
    """Return `theta` after a step along `step` that lowers the dual function sufficiently (Armijo's rule)."""
    length, start = 1.0, _dual(theta, z, share, largest)
    start += 1e-14 * (1 + abs(start))  # near the minimum the decrease is smaller than the rounding error
    while length > 1e-12 and _dual(theta + length * step, z, share, largest) > start + 1e-4 * length * gradient @ step:
        length /= 2
    return np.asarray(theta + length * step)


def _dual(theta: np.ndarray, z: np.ndarray, share: np.ndarray, largest: float) -> float:
    """Return the dual function of the calibration; its gradient is the error of the constraints.

    It is the mean over pairs of the integral of clip(t, 0, largest) for t from 0 to u = z . theta, minus theta[0].
    """
    u = z @ theta
    inside = np.clip(u, 0.0, largest)
    return float((share * (inside**2 / 2 + largest * np.maximum(u - largest, 0.0))).sum() - theta[0])


# Weights under which the named cues do not separate chosen from rejected replies.

LARGEST = 20.0  # times the mean weight; a cue that favours one side in more than 39 of 40 pairs cannot be balanced


def weigh_pairs(groups: Sequence[Group], cues: Sequence[str], report: Callable[[str], None]) -> list[Group]:
    """Return the pairs with weights of mean 1 under which each cue is right half of the time.

    `cues` are names of `counsel.cues.CUES`. A cue is right if the chosen reply has the larger value; a tie counts half.
    Cues are computed on whole texts, even if replies were shortened. Two lines are reported: the effective sample size,
    and each cue's accuracy before and after.

    Raises:
        UserError: if a cue is never wrong or never right, or if no such weights exist.
    """
    signs = _signs(groups, cues)
    for name, column in zip(cues, signs.T, strict=True):
        _check_both_ways(name, column)
    weights = balanced_weights(signs, LARGEST)
    if weights is None:
        raise UserError(_impossible(cues, signs))
    share = weights / weights.sum()
    accuracies = [
        f"{name} {_accuracy(column, 1 / len(column)):.1%} -> {_accuracy(column, share):.1%}"
        for name, column in zip(cues, signs.T, strict=True)
    ]
    report(
        f"data.balance: {len(groups)} pairs have weights from {weights.min():.2f} to {weights.max():.2f} (mean 1); "
        f"effective sample size: {effective_size(weights):.0f}"
    )
    report(f"data.balance: pairs in which the chosen reply has more of a cue: {', '.join(accuracies)}")
    return [replace(group, weight=float(weight)) for group, weight in zip(groups, weights, strict=True)]


def _signs(groups: Sequence[Group], cues: Sequence[str]) -> np.ndarray:
    """Return the sign of each cue for each pair, int64[pairs, cues]; each text is analysed only once."""
    texts = list(dict.fromkeys(reply.text for group in groups for reply in group.completions))
    values = dict(zip(texts, cue_values(texts, cues), strict=True))
    differences = [values[group.completions[0].text] - values[group.completions[1].text] for group in groups]
    return np.sign(differences).astype(np.int64)


def _accuracy(signs: np.ndarray, share: np.ndarray | float) -> float:
    """Return the weighted share of pairs whose chosen reply has the larger value; a tie counts half."""
    return float(0.5 + (share * signs).sum() / 2)


def _check_both_ways(name: str, signs: np.ndarray) -> None:
    more, less = int((signs > 0).sum()), int((signs < 0).sum())
    if not more and not less:
        raise UserError(f"data.balance: {name} is equal in both replies of every pair: leave {name} out")
    if bool(more) != bool(less):
        side, other = ("chosen", "rejected") if more else ("rejected", "chosen")
        raise UserError(
            f"data.balance: the {side} reply has more of {name} in all of the {more + less} pairs that differ in it, so no "
            f"weights can balance it: leave {name} out, or add pairs in which the {other} reply has more"
        )


def _impossible(cues: Sequence[str], signs: np.ndarray) -> str:
    alone = [
        name for name, column in zip(cues, signs.T, strict=True) if balanced_weights(column[:, None], LARGEST) is None
    ]
    what = f"{', '.join(alone)} alone" if alone else "all of these cues together"
    return (
        f"data.balance=[{','.join(cues)}]: no weights of at most {LARGEST:g} times the mean balance {what} in these "
        f"{len(signs)} pairs: leave out {alone[0] if alone else 'one of them'}, or add pairs in which the cue favours the other "
        "reply"
    )
