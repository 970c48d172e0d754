"""Blocks of `evaluation=best_of`: the win rate of the best of n replies against its divergence, by reward model."""

from collections.abc import Sequence
from typing import Any

from psychocounsel.blocks.cells import (
    Figures,
    Titled,
    count,
    exact,
    measured,
    name_in,
    percent_text,
    report_table,
    warnings_of,
)
from psychocounsel.blocks.conclusions import UNDECIDED, Conclusion, against_half, bar_of
from psychocounsel.blocks.kinds import Block, Chart, Curve

BOUND = "KL from the policy, at most log n - (n - 1) / n (nats)"


def best_of_conclusions(figures: Figures) -> list[Conclusion]:
    """Return what choosing by each reward model gains, at the largest n."""
    cautions = [str(line).removeprefix("warning: ") for line in figures["warnings"]]
    return [_gain(name, points[-1], cautions) for name, points in figures["reward_models"].items() if points]


def _gain(name: str, point: Figures, cautions: Sequence[str]) -> Conclusion:
    side = against_half(point["low"], point["high"])
    word = {1: "gains", -1: "loses", None: UNDECIDED}[side]
    told = {1: "is better than the first", -1: "is worse than the first", None: f"against the first: {UNDECIDED}"}[side]
    text = f"The best of {point['n']} replies by {name} {told}: judges prefer it in {percent_text(point, 'value')}"
    missing = [f"Best of {point['n']} by {name}: more speeches"] if side is None else []
    tone = "warning" if cautions else {1: "good", -1: "bad", None: "undecided"}[side]
    bars = bar_of(f"best of {point['n']} by {name}", point)
    word = f"{word}, in doubt" if cautions else word
    return Conclusion(word, f"{text} of {point['speeches']} speeches.", tone, cautions, missing, bars)


def best_of_blocks(runs: Sequence[Titled[Any]]) -> list[Block]:
    """Return warnings, the chart with a curve for each reward model, and the table of its points."""
    curves, rows = list[Curve](), []
    for run in runs:
        for name, points in run.figures["reward_models"].items():
            title = name_in(run.title, name, len(runs) > 1)
            value, low, high = ([point[key] for point in points] for key in ("value", "low", "high"))
            axes = {BOUND: [point["kl"] for point in points], "n": [point["n"] for point in points]}
            curves.append(Curve(title, axes, value, low, high, [f"best of {point['n']}" for point in points]))
            for point in points:
                numbers = [exact(point["kl"]), measured(point, percent=True), exact(point["reward"])]
                rows.append([run.title, name, str(point["n"]), *numbers, count(point["speeches"])])
    notes = [
        "win rate: share of chosen replies that judges prefer to the first; a tie counts half, and n = 1 is 50 % by definition",
        "KL: an upper bound of the divergence, which is smaller if the model often writes the same reply",
        "a curve that falls while the reward rises shows a reward model that is exploited",
    ]
    headings = ["evaluation", "reward model", "n", "KL", "win rate", "mean reward", "speeches"]
    chart = Chart(
        "best-of", "Best of n replies", "win rate against the first reply", curves, reference=0.5, notes=notes
    )
    return [
        *warnings_of([(run.title, run.figures["warnings"]) for run in runs]),
        *([chart] if curves else []),
        *report_table("best-of", "Best of n replies against the first", headings, rows, *notes),
    ]
