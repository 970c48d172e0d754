"""Charts of reward models: reliability in two kinds of bins, and accuracy on the pairs that a model is surest of."""

from collections.abc import Sequence
from typing import Any

from psychocounsel.reporting.blocks import Chart, Curve
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.sections.evaluations.figure_cells import name_in

_BINS = {"equal_width": ("reliability", "equal width"), "equal_mass": ("reliability-equal-mass", "equal mass")}


def reliability_charts(runs: Sequence[RunMaterial]) -> list[Chart]:
    """A chart for each kind of bins, with a curve for each reward model."""
    found = []
    for kind, (name, title) in _BINS.items():
        curves = [
            _reliability(name_in(run, model, runs), each[kind])
            for run in runs
            for model, each in _models(run)
            if each.get(kind)
        ]
        if curves:
            notes = ["A pair counts in both orders, so curves are mirrored at one half."]
            notes += ["On the diagonal, margins mean what they say as log-odds."]
            notes += ["Intervals are Wilson's (95 %), as if pairs were independent."]
            chart = Chart(
                *(name, f"Reliability of reward models, bins of {title}", "share in which the reply is preferred"),
                *(curves, False, True),
                notes=notes,
            )
            found.append(chart)
    return found


def risk_coverage_chart(runs: Sequence[RunMaterial]) -> list[Chart]:
    """Accuracy against the share of pairs that a model judges, those with the largest margin first."""
    curves = [
        Curve(
            name_in(run, model, runs),
            {"share of pairs that are judged": [point["coverage"] for point in each["risk_coverage"]]},
            [point["accuracy"] for point in each["risk_coverage"]],
            labels=[f"margins of {point['margin']:.3g} or more" for point in each["risk_coverage"]],
        )
        for run in runs
        for model, each in _models(run)
        if each.get("risk_coverage")
    ]
    notes = ["The curve has no intervals; the table above gives them at 90, 80 and 50 % of the pairs."]
    title = "Accuracy on the pairs that a reward model is surest of"
    return [Chart("risk-coverage", title, "accuracy on these pairs", curves, notes=notes)] if curves else []


def _models(run: RunMaterial) -> Sequence[tuple[str, Any]]:
    return [*(run.extra.get("reliability") or {}).items()]


def _reliability(title: str, bins: Sequence[Any]) -> Curve:
    return Curve(
        title,
        {"predicted probability that the reply is preferred": [each["mean_p"] for each in bins]},
        [each["right"] for each in bins],
        [each["low"] for each in bins],
        [each["high"] for each in bins],
        [f"{each['n']} predictions from {each['from']:.2f} to {each['to']:.2f}" for each in bins],
    )
