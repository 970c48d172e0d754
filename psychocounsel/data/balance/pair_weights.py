"""`data.balance`: weights of training pairs under which the named cues do not separate chosen from rejected replies."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from psychocounsel.counsel.cues import cue_values
from psychocounsel.data.balance.calibration import balanced_weights, effective_size
from psychocounsel.data.group import Group
from psychocounsel.errors import UserError

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
