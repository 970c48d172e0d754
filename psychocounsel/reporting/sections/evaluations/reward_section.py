"""Section on reward models: accuracy in telling the better reply, calibration, and dependence on the speech."""

from collections.abc import Sequence
from dataclasses import dataclass

from psychocounsel.reporting.blocks import Block, Paragraph, ReportTable, Section
from psychocounsel.reporting.material import Material, RunMaterial
from psychocounsel.reporting.sections.evaluations.figure_cells import (
    Figures,
    count,
    evaluations,
    measured,
    named,
    report_table,
    without_figures,
)
from psychocounsel.reporting.sections.evaluations.reward_parts.reward_baselines import baselines
from psychocounsel.reporting.sections.evaluations.reward_parts.reward_charts import (
    reliability_charts,
    risk_coverage_chart,
)
from psychocounsel.reporting.sections.evaluations.reward_parts.reward_comparison import comparison, counterfactuals

_BY_PROMPT = "intervals are computed over groups of prompts that share no reply"


def section(material: Material) -> Section:
    every = evaluations(material, "reward")
    runs = [run for run in every if "metrics" in run.summary]
    blocks: list[Block] = [*without_figures(every, lambda run: "metrics" in run.summary)]
    if runs:
        rows = [row for run in runs for row in _models(run)]
        blocks += [*_figures(rows), *reliability_charts(runs), *_sureness(rows), *risk_coverage_chart(runs)]
        blocks += [*comparison(runs), *baselines(runs), *_slices(runs), *counterfactuals(runs), *_warnings(runs)]
    return Section("reward-models", "Reward models", blocks)


@dataclass(frozen=True)
class _Model:
    """Figures of a reward model, with its number of pairs and prompts (None: not recorded)."""

    run: RunMaterial
    name: str
    figures: Figures
    pairs: int
    prompts: int | None


def _models(run: RunMaterial) -> list[_Model]:
    """Return the model under evaluation; with compare= all models, on the pairs that all of them can read."""
    metrics, compared = run.summary["metrics"], run.summary.get("compare")
    name = str((run.config.get("reward") or {}).get("name") or "reward model")
    mine = _Model(run, name, metrics, metrics["pairs"], metrics["prompts"])
    if not compared:
        return [mine]
    # If compare= skipped pairs, the number of remaining prompts was not recorded.
    same = {} if compared["left_out"] else {"longer_reply_accuracy": metrics["longer_reply_accuracy"]}
    prompts = None if compared["left_out"] else metrics["prompts"]
    others = [
        _Model(run, each, {**same, **found}, compared["pairs"], prompts) for each, found in compared["models"].items()
    ]
    if not compared["left_out"]:
        return others
    return [_Model(run, f"{name}, all pairs", metrics, metrics["pairs"], metrics["prompts"]), *others]


def _figures(rows: Sequence[_Model]) -> list[ReportTable]:
    headings = ["evaluation", "reward model", "pairs", "prompts", "accuracy", "AUC", "ECE", "adaptive ECE", "Brier"]
    headings += ["calibration slope", "calibration intercept"]
    keys = ("auc", "ece", "ece_adaptive", "brier", "calibration_slope", "calibration_intercept")
    lines = [
        [
            *(row.run.title, row.name, count(row.pairs), count(row.prompts), named(row.figures, "accuracy", True)),
            *(named(row.figures, key) for key in keys),
        ]
        for row in rows
    ]
    notes = [_BY_PROMPT, "ECE has ten bins of equal width, adaptive ECE ten of equal mass"]
    notes += [
        "calibration slope: 1 is best; below 1, margins are too large",
        "calibration intercept: near 0 except by chance",
    ]
    left_out = sum((row.run.summary.get("compare") or {}).get("left_out", 0) > 0 for row in rows)
    notes += ["models of one evaluation are compared on the pairs that all of them scored"] if left_out else []
    return report_table("reward-models", "Reward models on the evaluated pairs", headings, lines, *notes)


def _sureness(rows: Sequence[_Model]) -> list[ReportTable]:
    headings = [
        "evaluation",
        "reward model",
        "pairs",
        "surest 90 %",
        "surest 80 %",
        "surest 50 %",
        "risk-coverage area",
    ]
    headings += ["flipped pairs", "accuracy on flipped pairs", "longer reply wins"]
    lines = [
        [
            *(row.run.title, row.name, count(row.pairs)),
            *(named(row.figures, f"accuracy_at_{share}", True) for share in (90, 80, 50)),
            *(named(row.figures, "aurc"), count(row.figures.get("flipped_pairs"))),
            *(named(row.figures, "flipped_accuracy", True), named(row.figures, "longer_reply_accuracy", True)),
        ]
        for row in rows
    ]
    notes = [
        _BY_PROMPT,
        "surest 90 %: accuracy on the 90 % of pairs with the largest margins; risk-coverage area: 0 is best",
    ]
    notes += ["on flipped pairs, a model that ignores the client is right half of the time"]
    return report_table("reward-sureness", "Accuracy on the surest pairs", headings, lines, *notes)


def _slices(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    headings = ["evaluation", "kind", "slice", "pairs", "components", "accuracy", "named by", "note"]
    lines = [
        [
            *(run.title, kind, name, count(row["pairs"]), count(row["components"]), measured(row, "accuracy", True)),
            *(", ".join(sorted(found["by"])), "few components" if row["few"] else ""),
        ]
        for run in runs
        for kind, found in run.summary.get("slices", {}).items()
        for name, row in found["slices"].items()
    ]
    notes = [
        f"of the reward model under evaluation only; {_BY_PROMPT}",
        "components are groups of pairs that share a text",
    ]
    notes += ["few components: fewer than 20, too few to trust an interval"]
    notes += ["gap: difference of both replies' mean ratings; length: chosen reply compared with the rejected one"]
    notes += ["crisis includes every speech with a risk; rules name topics and risks by English keywords"]
    return report_table("reward-slices", "Accuracy by kind of pair", headings, lines, *notes)


def _warnings(runs: Sequence[RunMaterial]) -> list[Block]:
    return [
        Paragraph(f"{run.title}: {line.removeprefix('warning: ')}", "warning")
        for run in runs
        for line in (run.summary.get("compare") or {}).get("warnings", [])
    ]
