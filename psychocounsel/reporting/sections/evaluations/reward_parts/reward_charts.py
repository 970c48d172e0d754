"""Charts of reward models: reliability in two kinds of bins, and accuracy by share of judged pairs."""

from collections.abc import Sequence
from typing import Any

from psychocounsel.reporting.blocks import Chart, Curve
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.sections.evaluations.figure_cells import name_in

_BINS = {"equal_width": ("reliability", "equal width"), "equal_mass": ("reliability-equal-mass", "equal mass")}


def reliability_charts(runs: Sequence[RunMaterial]) -> list[Chart]:
    """Return a chart for each kind of bins, with a curve for each reward model."""
    found = []
    for kind, (name, title) in _BINS.items():
        curves = [
            _reliability(name_in(run, model, runs), each[kind])
            for run in runs
            for model, each in _models(run)
            if each.get(kind)
        ]
        if curves:
            notes = ["Each pair counts in both orders, so curves are symmetric about one half."]
            notes += ["On the diagonal, the model is calibrated: margins equal log-odds."]
            notes += ["Intervals are Wilson's (95 %) and assume independent pairs."]
            chart = Chart(
                *(
                    name,
                    f"Reliability of reward models, bins of {title}",
                    "share of pairs in which the reply is preferred",
                ),
                *(curves, False, True),
                notes=notes,
            )
            found.append(chart)
    return found


def risk_coverage_chart(runs: Sequence[RunMaterial]) -> list[Chart]:
    """Return a chart of accuracy against the share of judged pairs, those with the largest margins first."""
    curves = [
        Curve(
            name_in(run, model, runs),
            {"share of pairs judged": [point["coverage"] for point in each["risk_coverage"]]},
            [point["accuracy"] for point in each["risk_coverage"]],
            labels=[f"margins of {point['margin']:.3g} or more" for point in each["risk_coverage"]],
        )
        for run in runs
        for model, each in _models(run)
        if each.get("risk_coverage")
    ]
    notes = ["The curve has no intervals; the table above has them for 90, 80 and 50 % of the pairs."]
    title = "Accuracy on the pairs with the largest margins"
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
