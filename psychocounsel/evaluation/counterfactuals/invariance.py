"""Figures of counterfactuals: a scorer should notice changes of content and ignore changes of style.

With r the scorer's reward, on the model's own scale:
    sensitivity   share of content changes with r(original) > r(changed); ties count half; 1 is best, 0.5 is chance
    change        mean of |r(changed) - r(original)| over style changes, in units of the median |r_chosen - r_rejected|
    shift         mean of r(changed) - r(original) in the same units; positive if the scorer likes the change
    flips         share of style changes that reverse the order of the pair's two rewards
These definitions are ours.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from psychocounsel.evaluation.counterfactuals.making import Counterfactual
from psychocounsel.metrics.stats import bootstrap

Figures = dict[str, Any]


def counterfactual_figures(
    made: Sequence[Counterfactual], changed: np.ndarray, scores: np.ndarray, prompts: Sequence[str]
) -> Figures:
    """Return sensitivity by principle and by kind of content change; change, shift and flips by kind of style change.

    `changed`: rewards of the changed replies, float[made]; NaN marks a reply that is too long for the scorer and is
    skipped. `scores`: rewards of the chosen and the rejected reply of all pairs, float[pairs, 2]. `prompts`: prompt of each
    pair; intervals are by bootstrap over prompts. Figures in units of the median gap are None if the median gap is 0.
    """
    scored = [index for index in range(len(made)) if not np.isnan(changed[index])]
    unit = float(np.median(np.abs(scores[:, 0] - scores[:, 1])))
    by_principle, by_kind = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
    for index in scored:
        by_kind[made[index].kind.name].append(index)
        if made[index].kind.prefers_original:
            by_principle[made[index].kind.principle].append(index)
    style = [index for index in scored if not made[index].kind.prefers_original]
    original = np.array([scores[each.pair, each.side] for each in made])
    gains = np.sign(original - changed) / 2 + 0.5
    clusters = [prompts[each.pair] for each in made]
    flips = np.array([_flips(each, now, scores) for each, now in zip(made, changed, strict=True)])
    moved = (changed - original) / unit if unit else None

    def looks(rows: list[int]) -> Figures:
        found: Figures = {
            "count": len(rows),
            "change": None,
            "shift": None,
            **_mean("flips", flips, rows, clusters, share=True),
        }
        return found if moved is None else found | _mean("change", np.abs(moved), rows, clusters) | _shift(moved, rows)

    kinds = {name: rows for name, rows in by_kind.items() if made[rows[0]].kind.prefers_original}
    return {
        "median_gap": unit,
        "left_out": len(made) - len(scored),
        "sensitivity": {
            name: {"count": len(rows), **_mean("value", gains, rows, clusters, share=True)}
            for name, rows in by_principle.items()
        },
        "kinds": {name: {"count": len(rows), "sensitivity": float(gains[rows].mean())} for name, rows in kinds.items()},
        "invariance": {name: looks(rows) for name, rows in by_kind.items() if name not in kinds},
        "all_styles": looks(style) if style else None,
    }


def _flips(each: Counterfactual, changed: float, scores: np.ndarray) -> float:
    """Return 1 if the change reverses the sign of the pair's margin, 0.5 if one of the two margins is 0, otherwise 0."""
    chosen, rejected = scores[each.pair]
    margin = (changed - rejected) if each.side == 0 else (chosen - changed)
    return float(abs(np.sign(margin) - np.sign(chosen - rejected)) / 2)


def _mean(name: str, values: np.ndarray, rows: list[int], clusters: Sequence[str], share: bool = False) -> Figures:
    some, own = values[rows], [clusters[row] for row in rows]
    low, high = bootstrap(lambda drawn: float(some[drawn].mean()), own, trials=len({*own}) if share else 0)
    return {name: float(values[rows].mean()), f"{name}_low": low, f"{name}_high": high}


def _shift(moved: np.ndarray, rows: list[int]) -> Figures:
    return {"shift": float(moved[rows].mean())}
