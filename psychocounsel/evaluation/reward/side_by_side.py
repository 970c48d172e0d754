"""Several reward models on the same pairs: the paper's table, and how far each is from the first."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from psychocounsel.data.rows import Example
from psychocounsel.errors import UserError
from psychocounsel.evaluation.reward.flipped import flipped_figures
from psychocounsel.evaluation.reward.reward_figures import reward_figures
from psychocounsel.metrics.reward_metrics import accuracy, auc, brier, ece
from psychocounsel.metrics.stats import bootstrap

Figures = dict[str, Any]
_COLUMNS = {"accuracy": ("Acc", accuracy), "auc": ("AUC", auc), "ece": ("ECE", ece), "brier": ("Brier", brier)}


def side_by_side(examples: Sequence[Example], margins: Mapping[str, np.ndarray], component: np.ndarray) -> Figures:
    """Figures of each model, and paired differences to the first one, on the pairs that all of them can read.

    Args:
        examples: n pairs, chosen reply first.
        margins: by the name of the model, float[n]; NaN where a pair is too long for it.
        component: int[n]; pairs of two components share no text. Whole components are resampled, the same for both models.

    Returns:
        `pairs`, their number; `left_out`, the number of others; `models`: by name, the figures of `reward_figures` and
        `flipped_figures`, and but for the first model `differences`: `value`, `low`, `high` for each column of the table.

    Raises:
        UserError: if no pair is short enough for all models.
    """
    kept = np.flatnonzero(~np.isnan(np.column_stack(list(margins.values()))).any(1))
    if not len(kept):
        raise UserError("compare: no pair is short enough for all reward models")
    rows = [examples[row] for row in kept]
    ids, component = [row.id for row in rows], component[kept]
    first, *_ = margins.values()
    models = {}
    for name, found in margins.items():
        models[name] = reward_figures(ids, found[kept], component) | flipped_figures(rows, found[kept])
        if found is not first:
            models[name] |= {"differences": _differences(found[kept], first[kept], component.tolist())}
    return {"pairs": len(kept), "left_out": len(examples) - len(kept), "models": models}


def say_side_by_side(figures: Figures, say: Callable[[str], None]) -> None:
    """The table, and below it the differences."""
    models, titles = figures["models"], [title for title, _ in _COLUMNS.values()]
    width = max(map(len, models)) + 2
    say(f"\n{'reward model':<{width}}" + "".join(f"{title:>8}" for title in titles) + f"   of {figures['pairs']} pairs")
    for name, found in models.items():
        cells = [f"{100 * found['accuracy']:.1f} %", *(f"{found[column]:.3f}" for column in list(_COLUMNS)[1:])]
        say(f"{name:<{width}}" + "".join(f"{cell:>8}" for cell in cells))
    if figures["left_out"]:
        say(f"{figures['left_out']} pairs are left out, as they are too long for one of the models")
    first, *others = models
    for name in others:
        say(f"{name} less {first}, 95 % intervals by prompts that share no reply")
        for column, (title, _) in _COLUMNS.items():
            found = models[name]["differences"][column]
            say(f"  {title:<8}{found['value']:>+7.3f}   {found['low']:+.3f} to {found['high']:+.3f}")


def _differences(margins: np.ndarray, first: np.ndarray, clusters: list[int]) -> Figures:
    differences = {}
    for name, (_, metric) in _COLUMNS.items():
        low, high = bootstrap(lambda rows, metric=metric: metric(margins[rows]) - metric(first[rows]), clusters)  # type: ignore[misc]
        differences[name] = {"value": metric(margins) - metric(first), "low": low, "high": high}
    return differences
