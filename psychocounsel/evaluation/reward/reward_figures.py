"""All figures of one reward model, computed from its margins, and their printed table."""

from collections.abc import Callable, Sequence

import numpy as np

from psychocounsel.evaluation.reward.calibration_line import calibration_line
from psychocounsel.evaluation.reward.reliability import adaptive_ece
from psychocounsel.evaluation.reward.risk_coverage import coverage_figures
from psychocounsel.metrics.reward_metrics import pair_metrics
from psychocounsel.metrics.stats import bootstrap

_TITLES = {"accuracy": "accuracy", "auc": "AUC", "ece": "ECE (10 bins)", "brier": "Brier score"}
_MORE_TITLES = {
    "ece_adaptive": "ECE (equal mass)",
    "calibration_slope": "calibration slope",
    "calibration_intercept": "  and intercept",
    "accuracy_at_90": "accuracy, surest 90 %",
    "accuracy_at_80": "accuracy, surest 80 %",
    "accuracy_at_50": "accuracy, surest 50 %",
    "aurc": "risk-coverage area",
}
_READ_AS = {
    "calibration_slope": "; 1 is best, below 1 margins are too large",
    "calibration_intercept": "; replies in random order, so only chance moves it from 0",
    "aurc": "; 0 is best",
}


def reward_figures(ids: Sequence[str], margins: np.ndarray, component: np.ndarray) -> dict[str, float]:
    """Return every figure of docs/rewards.md that depends on margins alone, each with its 95 % interval (`_low`, `_high`).

    `margins`: float[n], r_chosen - r_rejected of unnormalised rewards. `component`: int[n]; intervals resample components.
    `calibration_slope` and `calibration_intercept` are omitted if they have no finite estimate.
    """
    clusters = component.tolist()
    low, high = bootstrap(lambda rows: adaptive_ece(margins[rows]), clusters)
    return {
        **pair_metrics(margins.tolist(), [0.0] * len(margins), clusters),
        **{"ece_adaptive": adaptive_ece(margins), "ece_adaptive_low": low, "ece_adaptive_high": high},
        **calibration_line(ids, margins, component),
        **coverage_figures(margins, clusters),
    }


def say_figures(figures: dict[str, float], longer: float, say: Callable[[str], None]) -> None:
    """Print a line for each figure. `longer`: the accuracy of always choosing the longer reply."""
    for name, title in _TITLES.items():
        say(
            f"{title:<22}{figures[name]:>7.3f}   95 % interval by prompts that share no reply: {_interval(figures, name)}"
        )
    say(f"{'the longer reply wins':<22}{longer:>7.3f}   accuracy of always preferring the longer reply")
    for name, title in _MORE_TITLES.items():
        if name in figures:
            say(f"{title:<22}{figures[name]:>7.3f}   {_interval(figures, name)}{_READ_AS.get(name, '')}")


def _interval(figures: dict[str, float], name: str) -> str:
    return f"{figures[f'{name}_low']:.3f} to {figures[f'{name}_high']:.3f}"
