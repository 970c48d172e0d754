"""Several reward models on the same pairs: the paper's table, and how far each is from the first."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from psychocounsel.data.rows import Example
from psychocounsel.errors import UserError
from psychocounsel.evaluation.reward.flipped import flipped_figures
from psychocounsel.evaluation.reward.reward_figures import reward_figures
from psychocounsel.metrics.reward_metrics import accuracy, auc, brier, ece
from psychocounsel.metrics.stats import bootstrap, mean_intervals

Figures = dict[str, Any]
_COLUMNS = {"accuracy": ("Acc", accuracy), "auc": ("AUC", auc), "ece": ("ECE", ece), "brier": ("Brier", brier)}


def side_by_side(
    examples: Sequence[Example],
    margins: Mapping[str, np.ndarray],
    component: np.ndarray,
    rankings: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Figures:
    """Figures of each model, and paired differences to the first one, on the pairs that all of them can read.

    Args:
        examples: n pairs, chosen reply first.
        margins: by the name of the model, float[n]; NaN where a pair is too long for it.
        rankings: of models that rank, by name, the mean verdict of both orders, float[n] from -1 to 1; NaN where one is
            missing. They have an `accuracy` alone: the share of verdicts that prefer the chosen reply, ties half.
        component: int[n]; pairs of two components share no text. Whole components are resampled, the same for both models.

    Returns:
        `pairs`, their number; `left_out`, the number of others; `models`: by name, the figures of `reward_figures` and
        `flipped_figures`, and but for the first model `differences`: `value`, `low`, `high` for each column of the table.

    Raises:
        UserError: if no pair is short enough for all models.
    """
    kept = np.flatnonzero(~np.isnan(np.column_stack([*margins.values(), *rankings.values()])).any(1))
    if not len(kept):
        raise UserError("compare: no pair is short enough for all reward models, and judged by those that rank")
    rows = [examples[row] for row in kept]
    ids, component = [row.id for row in rows], component[kept]
    first, *_ = margins.values()
    models = {}
    for name, found in margins.items():
        models[name] = reward_figures(ids, found[kept], component) | flipped_figures(rows, found[kept])
        if found is not first:
            models[name] |= {"differences": _differences(found[kept], first[kept], component.tolist())}
    for name, found in rankings.items():
        models[name] = _ranked(found[kept], first[kept], component)
    return {"pairs": len(kept), "left_out": len(examples) - len(kept), "models": models}


def say_side_by_side(figures: Figures, say: Callable[[str], None]) -> None:
    """The table, and below it the differences."""
    models, titles = figures["models"], [title for title, _ in _COLUMNS.values()]
    width = max(map(len, models)) + 2
    say(f"\n{'reward model':<{width}}" + "".join(f"{title:>8}" for title in titles) + f"   of {figures['pairs']} pairs")
    for name, found in models.items():
        columns = list(_COLUMNS)[1:]
        cells = [f"{100 * found['accuracy']:.1f} %"]
        cells += [f"{found[column]:.3f}" if column in found else "-" for column in columns]
        say(f"{name:<{width}}" + "".join(f"{cell:>8}" for cell in cells))
    if figures["left_out"]:
        say(f"{figures['left_out']} pairs are left out, as one of the models scored or ranked them not")
    first, *others = models
    for name in others:
        say(f"{name} less {first}, 95 % intervals by prompts that share no reply")
        for column, (title, _) in _COLUMNS.items():
            if found := models[name]["differences"].get(column):
                say(f"  {title:<8}{found['value']:>+7.3f}   {found['low']:+.3f} to {found['high']:+.3f}")


def _ranked(verdicts: np.ndarray, first: np.ndarray, component: np.ndarray) -> Figures:
    """The accuracy of a model that ranks, and how far it is from that of the margins `first`."""
    right = (1 + verdicts) / 2
    less = right - ((first > 0) + 0.5 * (first == 0))
    intervals = mean_intervals(np.column_stack([right, less]), component, shares=np.array([True, False])).tolist()
    (low, high), (least, most) = intervals
    difference = {"value": float(less.mean()), "low": least, "high": most}
    return {
        **{"accuracy": float(right.mean()), "accuracy_low": low, "accuracy_high": high},
        "differences": {"accuracy": difference},
    }


def _differences(margins: np.ndarray, first: np.ndarray, clusters: list[int]) -> Figures:
    differences = {}
    for name, (_, metric) in _COLUMNS.items():
        low, high = bootstrap(lambda rows, metric=metric: metric(margins[rows]) - metric(first[rows]), clusters)  # type: ignore[misc]
        differences[name] = {"value": metric(margins) - metric(first), "low": low, "high": high}
    return differences
