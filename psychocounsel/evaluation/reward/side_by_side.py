"""Several reward models on the same pairs: the paper's table, and the difference of each model to the first."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from psychocounsel.data.rows import Example
from psychocounsel.errors import UserError
from psychocounsel.evaluation.audit.blind import wins
from psychocounsel.evaluation.reward.flipped import flipped_figures
from psychocounsel.evaluation.reward.reward_figures import reward_figures
from psychocounsel.evaluation.statistics.significance import Tested, adjusted_tests
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
    """Return the figures of each model, and paired differences to the first model, on the pairs that all models judged.

    Args:
        examples: n pairs, chosen reply first.
        margins: margins by model name, float[n] each; NaN if a pair is too long for the model.
        rankings: mean verdicts of both orders by ranker, float[n] from -1 to 1; NaN where a verdict is missing. Rankers
            only have an `accuracy`: the share of verdicts that prefer the chosen reply, a tie counting half.
        component: int[n]; pairs of two components share no text. Whole components are resampled, the same for both models.

    Returns:
        `pairs` and `left_out`, the numbers of pairs used and skipped, and `models`. A model has the figures of
        `reward_figures` and `flipped_figures`. All models but the first also have `differences`: `value`, `low` and `high` for
        each column of the table, and for `accuracy` the sign-flip p-value over components, `p`, and `p_adjusted` by Holm.

    Raises:
        UserError: if no pair was judged by all models.
    """
    kept = np.flatnonzero(~np.isnan(np.column_stack([*margins.values(), *rankings.values()])).any(1))
    if not len(kept):
        raise UserError(
            "compare: no pair is short enough for all reward models and has verdicts of all language models"
        )
    rows = [examples[row] for row in kept]
    ids, component = [row.id for row in rows], component[kept]
    first, *_ = margins.values()
    models: dict[str, Figures] = {}
    for name, found in margins.items():
        models[name] = {**reward_figures(ids, found[kept], component), **flipped_figures(rows, found[kept])}
        if found is not first:
            models[name]["differences"] = _differences(found[kept], first[kept], component.tolist())
    right = {name: wins(found[kept]) for name, found in margins.items()}
    for name, found in rankings.items():
        right[name] = (1 + found[kept]) / 2
        models[name] = _ranked(right[name], wins(first[kept]), component)
    for name, test in _tests(right, component).items():
        models[name]["differences"]["accuracy"] |= {"p": test.raw, "p_adjusted": test.adjusted}
    return {"pairs": len(kept), "left_out": len(examples) - len(kept), "models": models}


def say_side_by_side(figures: Figures, say: Callable[[str], None]) -> None:
    """Print the table of all models, then the differences to the first model."""
    models, titles = figures["models"], [title for title, _ in _COLUMNS.values()]
    width = max(map(len, models)) + 2
    say(f"\n{'reward model':<{width}}" + "".join(f"{title:>8}" for title in titles) + f"   of {figures['pairs']} pairs")
    for name, found in models.items():
        columns = list(_COLUMNS)[1:]
        cells = [f"{100 * found['accuracy']:.1f} %"]
        cells += [f"{found[column]:.3f}" if column in found else "-" for column in columns]
        say(f"{name:<{width}}" + "".join(f"{cell:>8}" for cell in cells))
    if figures["left_out"]:
        say(f"{figures['left_out']} pairs are left out because at least one model gave no score or verdict")
    first, *others = models
    for name in others:
        say(f"{name} minus {first}, 95 % intervals by prompts that share no reply")
        for column, (title, _) in _COLUMNS.items():
            if found := models[name]["differences"].get(column):
                tested = f", p {found['p']:.3f}, by Holm {found['p_adjusted']:.3f}" if "p" in found else ""
                say(f"  {title:<8}{found['value']:>+7.3f}   {found['low']:+.3f} to {found['high']:+.3f}{tested}")


def _ranked(right: np.ndarray, first: np.ndarray, component: np.ndarray) -> Figures:
    """Return a ranker's accuracy and its difference to the first model's accuracy, from scores of each pair [0 to 1].

    `right` are the ranker's scores: means over both orders, in steps of 1/4. `first` are the first model's scores: 0,
    1/2 or 1.
    """
    columns = np.column_stack([right, right - first])
    (low, high), (least, most) = mean_intervals(columns, component, shares=np.array([True, False])).tolist()
    difference = {"value": float((right - first).mean()), "low": least, "high": most}
    return {
        **{"accuracy": float(right.mean()), "accuracy_low": low, "accuracy_high": high},
        "differences": {"accuracy": difference},
    }


def _tests(right: Mapping[str, np.ndarray], component: np.ndarray) -> dict[str, Tested]:
    """Return sign-flip tests over components of "as accurate as the first model", adjusted over the table."""
    _, group = np.unique(component, return_inverse=True)
    (_, first), *others = right.items()
    # Scaled to 0 to 1, like the scores of prompts: 1/2 if both models are right equally often.
    largest = np.bincount(group).max()
    return adjusted_tests({name: 0.5 + np.bincount(group, found - first) / (2 * largest) for name, found in others})


def _differences(margins: np.ndarray, first: np.ndarray, clusters: list[int]) -> Figures:
    differences = {}
    for name, (_, metric) in _COLUMNS.items():
        low, high = bootstrap(lambda rows, metric=metric: metric(margins[rows]) - metric(first[rows]), clusters)  # type: ignore[misc]
        differences[name] = {"value": metric(margins) - metric(first), "low": low, "high": high}
    return differences
