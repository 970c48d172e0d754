"""Section on reward models: accuracy in telling the better reply, calibration, and dependence on the speech."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psychocounsel.blocks.cells import Figures, count, exact, measured, name_in, named, percent_text, report_table
from psychocounsel.blocks.kinds import Block, Chart, Curve, Paragraph, ReportTable, Section
from psychocounsel.blocks.tables import Cell
from psychocounsel.evaluation.audit.blind import TITLES
from psychocounsel.evaluation.audit.show import GAIN_NOTE, reading_rows, uses_speech
from psychocounsel.reporting.material import Material, RunMaterial
from psychocounsel.reporting.sections.evaluated import evaluations, without_figures

# The audit's baselines on the same pairs, and how much the model depends on the speech


def baselines(runs: Sequence[RunMaterial]) -> list[Block]:
    """Return a table for all runs and sentences on its result; nothing if no run computed baselines."""
    with_some = [run for run in runs if "baselines" in run.summary]
    headings = ["evaluation", "judged by", "speech shown", "pairs skipped", "accuracy", "gain of own speech"]
    rows = [row for run in with_some for row in _baseline_rows(run)]
    notes = ["baselines without the speech are judged on prompts that they were not fitted to"]
    notes += [GAIN_NOTE]
    title = "Reward models against baselines that do not read the client's speech, or only count words shared with it"
    table = report_table("reward-baselines", title, headings, rows, *notes)
    return [*(Paragraph(*said) for run in with_some for said in _baseline_conclusions(run)), *table]


def _baseline_rows(run: RunMaterial) -> Iterator[list[Cell]]:
    found = run.summary["baselines"]
    for name, each in found["blind"].items():
        yield [run.title, TITLES.get(name, name), "replies only", None, measured(each, "accuracy", True), None]
    yield from ([run.title, "words shared with the speech", *row] for row in reading_rows(found["overlap"]))
    for name, reading in run.summary.get("reading", {}).items():
        if reading is not None:
            yield from ([run.title, f"reward model {name}", *row] for row in reading_rows(reading))


def _baseline_conclusions(run: RunMaterial) -> Iterator[tuple[str, str]]:
    blind = run.summary["baselines"]["blind"]
    best = max(blind, key=lambda name: blind[name]["accuracy"])
    said = f"{run.title}: the best baseline that sees only the replies ({TITLES.get(best, best)}) is right on "
    yield f"{said}{percent_text(blind[best])} of these pairs.", "plain"
    for name, reading in run.summary.get("reading", {}).items():
        if reading is None:
            yield (
                f"{run.title}: no pair with another client's speech fits {name}'s length, so its use of the speech is unknown.",
                "warning",
            )
        else:
            text, tone = uses_speech(f"the reward model {name}", reading)
            yield f"{run.title}: {text}", tone


# Charts: reliability in two kinds of bins, and accuracy by share of judged pairs

_BINS = {"equal_width": ("reliability", "equal width"), "equal_mass": ("reliability-equal-mass", "equal mass")}


def reliability_charts(runs: Sequence[RunMaterial]) -> list[Chart]:
    """Return a chart for each kind of bins, with a curve for each reward model."""
    found = []
    for kind, (name, title) in _BINS.items():
        curves = [
            _reliability(name_in(run.title, model, len(runs) > 1), each[kind])
            for run in runs
            for model, each in _reliabilities(run)
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
            name_in(run.title, model, len(runs) > 1),
            {"share of pairs judged": [point["coverage"] for point in each["risk_coverage"]]},
            [point["accuracy"] for point in each["risk_coverage"]],
            labels=[f"margins of {point['margin']:.3g} or more" for point in each["risk_coverage"]],
        )
        for run in runs
        for model, each in _reliabilities(run)
        if each.get("risk_coverage")
    ]
    notes = ["The curve has no intervals; the table above has them for 90, 80 and 50 % of the pairs."]
    title = "Accuracy on the pairs with the largest margins"
    return [Chart("risk-coverage", title, "accuracy on these pairs", curves, notes=notes)] if curves else []


def _reliabilities(run: RunMaterial) -> Sequence[tuple[str, Any]]:
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


# Comparison of models on the same pairs with Holm's adjustment, and the response to changed replies

_COLUMNS = {"auc": "AUC", "ece": "ECE", "brier": "Brier"}


def comparison(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    """Return a table of the differences of each model of compare= to the model under evaluation."""
    headings = ["evaluation", "reward model", "minus", "pairs", "accuracy", "p", "Holm p", *_COLUMNS.values()]
    rows = [row for run in runs if run.summary.get("compare") for row in _differences(run)]
    notes = ["minus: the model subtracted; intervals are computed over groups of prompts that share no reply"]
    notes += [
        "p: two-sided sign-flip test of accuracy over groups of pairs; Holm's adjustment is over the models of one evaluation"
    ]
    return report_table("reward-comparisons", "Differences between reward models", headings, rows, *notes)


def _differences(run: RunMaterial) -> Iterator[list[Cell]]:
    compared = run.summary["compare"]
    first, *others = compared["models"]
    for name in others:
        found = compared["models"][name]["differences"]
        accuracy = found["accuracy"]
        yield [
            *(run.title, name, first, count(compared["pairs"]), measured(accuracy, percent=True)),
            *(exact(accuracy.get("p")), exact(accuracy.get("p_adjusted"))),
            *(measured(found.get(key)) for key in _COLUMNS),
        ]


def counterfactuals(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    """Return tables: how often a reward model notices worse replies, and how much changes of style move its reward."""
    with_some = [run for run in runs if run.summary.get("counterfactuals")]
    noticed = [
        [run.title, name, count(found["count"]), named(found, "value", True)]
        for run in with_some
        for name, found in run.summary["counterfactuals"]["sensitivity"].items()
        if found is not None
    ]
    notes = [
        "each reply is made worse on one principle; noticed: the original has the larger reward (a tie counts half)"
    ]
    notes += ["50 % is chance; intervals are computed over prompts"]
    title = "Worsened replies that the reward model notices"
    tables = report_table(
        "reward-sensitivity", title, ["evaluation", "principle", "changes", "noticed"], noticed, *notes
    )
    moved = [
        [
            run.title,
            name.replace("_", " "),
            count(found["count"]),
            *(_size(found, key) for key in ("change", "shift", "flips")),
        ]
        for run in with_some
        for name, found in {**_styles(run), "all of these": run.summary["counterfactuals"].get("all_styles")}.items()
        if found
    ]
    headings = [
        "evaluation",
        "change of looks",
        "changes",
        "size of the movement",
        "mean movement",
        "verdicts flipped",
    ]
    notes = [
        "movements are in units of the median gap between both replies' rewards: 0 is best; intervals are computed over prompts"
    ]
    return tables + report_table("reward-invariance", "Movement of the reward by looks alone", headings, moved, *notes)


def _styles(run: RunMaterial) -> dict[str, dict[str, float] | None]:
    return dict(run.summary["counterfactuals"]["invariance"])


def _size(found: dict[str, float], key: str) -> Cell:
    return named(found, key, key == "flips")


# The section

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
