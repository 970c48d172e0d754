"""Blocks of `evaluation=reward`: accuracy in telling the better reply, calibration, and dependence on the speech."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psychocounsel.asking.language_model import TEXT
from psychocounsel.blocks.cells import (
    Figures,
    Titled,
    count,
    counts,
    exact,
    measured,
    name_in,
    named,
    percent_text,
    report_table,
    warnings_of,
)
from psychocounsel.blocks.conclusions import UNDECIDED, Conclusion, against_half, bar_of
from psychocounsel.blocks.kinds import Block, Chart, Curve, Paragraph, ReportTable
from psychocounsel.blocks.tables import Cell
from psychocounsel.evaluation.audit.blind import TITLES
from psychocounsel.evaluation.audit.show import GAIN_NOTE, principle_rows, principle_table, reading_rows, uses_speech
from psychocounsel.evaluation.judging.controls import MOST_WON, control_blocks, fooled_line
from psychocounsel.evaluation.judging.pairs import EQUAL
from psychocounsel.evaluation.reward.figures import FEW
from psychocounsel.evaluation.reward.principles import principle_blocks
from psychocounsel.storage.files import with_noun


@dataclass(frozen=True)
class RewardFigures:
    """Figures of an evaluation.

    Attributes:
        model: name of the reward model under evaluation.
        summary: content of summary.json.
        curves: content of reliability.json, by reward model.
    """

    model: str
    summary: Mapping[str, Any]
    curves: Mapping[str, Any]


Runs = Sequence[Titled[RewardFigures]]


def reward_blocks(runs: Runs) -> list[Block]:
    """Return conclusions, charts and tables of figures, comparisons, baselines and slices, and warnings."""
    models = [model for run in runs for model in _models(run)]
    compared = [(run.title, run.figures.summary.get("compare") or {}) for run in runs]
    by_principle = [Titled(run.title, figures) for run in runs if (figures := run.figures.summary.get("principles"))]
    conclusions = [(run, conclusion) for run in runs for conclusion in _conclusions(run.figures.summary)]
    return [
        *(Paragraph(_of(runs, run, text), tone) for run, (text, tone) in conclusions),
        *_figures(models, runs),
        *_calibration(models),
        *principle_blocks(by_principle),
        *_reliability_charts(runs),
        *_sureness(models),
        *_shortcuts(models),
        *_risk_coverage_chart(runs),
        *_comparison(runs),
        *_baselines(runs),
        *_principle_reading(runs),
        *control_blocks(
            [Titled(run.title, run.figures.summary.get("controls", {})) for run in runs], "reward-controls"
        ),
        *_slices(runs),
        *warnings_of([(title, compare.get("warnings", [])) for title, compare in compared]),
    ]


def reward_conclusions(figures: RewardFigures) -> list[Conclusion]:
    """Return how often the reward model is right, with what it may look at instead of the client's words."""
    summary = figures.summary
    metrics = summary["metrics"]
    rate = {"value": metrics["accuracy"], "low": metrics.get("accuracy_low"), "high": metrics.get("accuracy_high")}
    own = {name: reading for name, reading in summary.get("reading", {}).items() if name == figures.model}
    sentences = [(f"{text[:1].upper()}{text[1:]}", tone) for text, tone in _conclusions({**summary, "reading": own})]
    cautions = [text for text, tone in sentences if tone in ("warning", "bad")]
    more = " ".join(text for text, _ in sentences if text not in cautions)
    cautions += [*_fooled(figures), *_by_length(summary)]
    return [ranking_conclusion(figures.model, rate, metrics["pairs"], cautions, more)]


def ranking_conclusion(
    model: str, rate: Figures, pairs: int | None, cautions: Sequence[str] = (), more: str = ""
) -> Conclusion:
    """Return a sentence on a model that ranks pairs; `rate` holds `value`, `low` and `high`."""
    side = against_half(rate["low"], rate["high"])
    word = {1: "better than chance", -1: "worse than chance", None: UNDECIDED}[side]
    of = "held-out pairs" if pairs is None else f"{pairs} pairs"
    text = f"The reward model {model} ranks {percent_text(rate, 'value')} of {of} rightly: {word}."
    tone = {1: "warning" if cautions else "good", -1: "bad", None: "undecided"}[side]
    missing = [f"Reward model {model}: more held-out pairs"] if side is None else []
    text = f"{text} {more}" if more else text
    word = f"{word}, in doubt" if tone == "warning" else word
    return Conclusion(word, text, tone, cautions, missing, bar_of(f"{model}: pairs ranked rightly", rate))


def _fooled(figures: RewardFigures) -> Iterator[str]:
    """Yield which nonsense the evaluated reward model prefers to good replies."""
    shares = figures.summary.get("controls", {}).get(figures.model, {})
    if line := fooled_line(figures.model, shares, MOST_WON):
        yield f"{line}."


def _by_length(summary: Figures) -> Iterator[str]:
    """Yield a sentence if the accuracy depends on which reply is longer."""
    slices = summary.get("slices", {}).get("length", {}).get("slices", {})
    longer, shorter = (slices.get(f"chosen is {word}") for word in ("longer", "shorter"))
    if longer and shorter and (longer["low"] > shorter["high"] or shorter["low"] > longer["high"]):
        yield (
            f"It looks at length: it is right in {percent_text(longer)} of the pairs whose better reply is longer, and in "
            f"{percent_text(shorter)} of those whose better reply is shorter."
        )


def _of(runs: Runs, run: Titled[RewardFigures], text: str) -> str:
    """Return a sentence on an evaluation, preceded by its title if there are several."""
    return name_in(run.title, text, len(runs) > 1)


# Figures of each reward model

_BY_PROMPT = "intervals are computed over groups of prompts that share no reply"


@dataclass(frozen=True)
class _Model:
    """Figures of a reward model, with its number of pairs and prompts (None: not recorded)."""

    title: str
    name: str
    figures: Figures
    pairs: int
    prompts: int | None

    @property
    def head(self) -> list[Cell]:
        return [self.title, self.name, count(self.pairs)]


def _models(run: Titled[RewardFigures]) -> list[_Model]:
    """Return the model under evaluation; with compare= all models, on the pairs that all of them can read."""
    metrics, compared = run.figures.summary["metrics"], run.figures.summary.get("compare")
    name, pairs, prompts = run.figures.model, metrics["pairs"], metrics["prompts"]
    if not compared:
        return [_Model(run.title, name, metrics, pairs, prompts)]
    models = compared["models"].items()
    if not compared["left_out"]:
        same = {"longer_reply_accuracy": metrics["longer_reply_accuracy"]}
        return [_Model(run.title, other, {**same, **figures}, compared["pairs"], prompts) for other, figures in models]
    # The number of prompts among the remaining pairs is not recorded.
    others = [_Model(run.title, other, figures, compared["pairs"], None) for other, figures in models]
    return [_Model(run.title, f"{name}, all pairs", metrics, pairs, prompts), *others]


def _figures(models: Sequence[_Model], runs: Runs) -> list[ReportTable]:
    keys = ("auc", "ece", "brier")
    rows = [
        [
            *(*model.head, count(model.prompts), named(model.figures, "accuracy", True)),
            *(named(model.figures, key) for key in keys),
        ]
        for model in models
    ]
    headings = ["evaluation", "reward model", "pairs", "prompts", "accuracy", "AUC", "ECE", "Brier"]
    notes = [_BY_PROMPT, *(_of(runs, run, note) for run in runs for note in _missing_pairs(run.figures))]
    return report_table("reward-models", "Reward models on the evaluated pairs", headings, rows, *notes)


def _missing_pairs(figures: RewardFigures) -> Iterator[str]:
    """Yield why models are compared on fewer pairs than were evaluated."""
    compared = figures.summary.get("compare") or {"left_out": 0, "models": {}}
    if compared["left_out"]:
        yield f"models are compared on the pairs that all of them judged; {compared['left_out']} pairs are left out"
    for name, model in compared["models"].items():
        if odd := {word: calls for word, calls in model.get("outcomes", {}).items() if word not in (TEXT, EQUAL)}:
            yield f"{name}: calls without a verdict: {counts(odd)}; these pairs are excluded for all models"


def _calibration(models: Sequence[_Model]) -> list[ReportTable]:
    keys = ("ece_adaptive", "calibration_slope", "calibration_intercept")
    rows = [[*model.head, *(named(model.figures, key) for key in keys)] for model in models if "ece" in model.figures]
    headings = ["evaluation", "reward model", "pairs", "adaptive ECE", "calibration slope", "calibration intercept"]
    notes = [
        "ECE has ten bins of equal width, adaptive ECE ten of equal mass",
        "calibration slope: 1 is best; below 1, margins are too large",
        "calibration intercept: replies are in random order, so only chance moves it from 0",
    ]
    return report_table("reward-calibration", "Calibration of reward models", headings, rows, _BY_PROMPT, *notes)


def _sureness(models: Sequence[_Model]) -> list[ReportTable]:
    rows = [
        [
            *(*model.head, *(named(model.figures, f"accuracy_at_{share}", True) for share in (90, 80, 50))),
            named(model.figures, "aurc"),
        ]
        for model in models
        if "aurc" in model.figures
    ]
    headings = ["evaluation", "reward model", "pairs", "surest 90 %", "surest 80 %", "surest 50 %"]
    surest = "surest 90 %: accuracy on the 90 % of pairs with the largest margins; risk-coverage area: 0 is best"
    title = "Accuracy on the surest pairs"
    return report_table("reward-sureness", title, [*headings, "risk-coverage area"], rows, _BY_PROMPT, surest)


def _shortcuts(models: Sequence[_Model]) -> list[ReportTable]:
    rows = [
        [
            *(*model.head, count(model.figures.get("flipped_pairs")), named(model.figures, "flipped_accuracy", True)),
            exact(model.figures.get("longer_reply_accuracy"), percent=True),
        ]
        for model in models
        if "ece" in model.figures
    ]
    headings = [
        "evaluation",
        "reward model",
        "pairs",
        "flipped pairs",
        "accuracy on flipped pairs",
        "longer reply wins",
    ]
    notes = [
        _BY_PROMPT,
        "on flipped pairs, a model that ignores the client is right half of the time",
        "longer reply wins: accuracy of always preferring the longer reply",
    ]
    return report_table("reward-shortcuts", "Accuracy without reading", headings, rows, *notes)


# Charts: reliability in two kinds of bins, and accuracy by share of judged pairs

_BINS = {"equal_width": ("reliability", "equal width"), "equal_mass": ("reliability-equal-mass", "equal mass")}


def _reliability_charts(runs: Runs) -> list[Chart]:
    """Return a chart for each kind of bins, with a curve for each reward model."""
    charts = []
    for kind, (name, title) in _BINS.items():
        curves = [
            _reliability(_of(runs, run, model), bins[kind])
            for run in runs
            for model, bins in run.figures.curves.items()
            if bins.get(kind)
        ]
        if curves:
            whole = f"Reliability of reward models, bins of {title}"
            notes = [
                "Each pair counts in both orders, so curves are symmetric about one half.",
                "On the diagonal, the model is calibrated: margins equal log-odds.",
                "Intervals are Wilson's (95 %) and assume independent pairs.",
            ]
            what = "share of pairs in which the reply is preferred"
            charts.append(Chart(name, whole, what, curves, diagonal=True, notes=notes))
    return charts


def _reliability(title: str, bins: Sequence[Figures]) -> Curve:
    return Curve(
        title,
        {"predicted probability that the reply is preferred": [place["mean_p"] for place in bins]},
        [place["right"] for place in bins],
        [place["low"] for place in bins],
        [place["high"] for place in bins],
        [f"{with_noun(place['n'], 'prediction')} from {place['from']:.2f} to {place['to']:.2f}" for place in bins],
    )


def _risk_coverage_chart(runs: Runs) -> list[Chart]:
    """Return a chart of accuracy against the share of judged pairs, those with the largest margins first."""
    curves = [
        Curve(
            _of(runs, run, model),
            {"share of pairs judged": [point["coverage"] for point in drawn["risk_coverage"]]},
            [point["accuracy"] for point in drawn["risk_coverage"]],
            labels=[f"margins of {point['margin']:.3g} or more" for point in drawn["risk_coverage"]],
        )
        for run in runs
        for model, drawn in run.figures.curves.items()
        if drawn.get("risk_coverage")
    ]
    notes = ["The curve has no intervals; the table above has them for 90, 80 and 50 % of the pairs."]
    title = "Accuracy on the pairs with the largest margins"
    return [Chart("risk-coverage", title, "accuracy on these pairs", curves, notes=notes)] if curves else []


# Comparison of models on the same pairs, with Holm's adjustment

_COLUMNS = {"auc": "AUC", "ece": "ECE", "brier": "Brier"}


def _comparison(runs: Runs) -> list[ReportTable]:
    """Return a table of the differences of each model of compare= to the model under evaluation."""
    rows = list[list[Cell]]()
    for run in runs:
        compared = run.figures.summary.get("compare") or {"models": {}}
        names = [*compared["models"]]
        for name in names[1:]:
            differences = compared["models"][name]["differences"]
            accuracy = differences["accuracy"]
            tested = [measured(accuracy, percent=True), exact(accuracy.get("p")), exact(accuracy.get("p_adjusted"))]
            columns = [measured(differences.get(key)) for key in _COLUMNS]
            rows.append([run.title, name, names[0], count(compared["pairs"]), *tested, *columns])
    headings = ["evaluation", "reward model", "minus", "pairs", "accuracy", "p", "Holm p", *_COLUMNS.values()]
    notes = [
        f"minus: the model subtracted; {_BY_PROMPT}",
        "p: two-sided sign-flip test of accuracy over groups of pairs; Holm's adjustment is over the models of one evaluation",
    ]
    return report_table("reward-comparisons", "Differences between reward models", headings, rows, *notes)


# The audit's baselines on the same pairs, and how much the model depends on the speech


def _baselines(runs: Runs) -> list[ReportTable]:
    with_baselines = [run for run in runs if "baselines" in run.figures.summary]
    rows = [[run.title, *cells] for run in with_baselines for cells in _baseline_rows(run.figures.summary)]
    headings = ["evaluation", "judged by", "speech shown", "pairs skipped", "accuracy", "gain of own speech"]
    notes = [_BY_PROMPT, "baselines without the speech are judged on prompts that they were not fitted to", GAIN_NOTE]
    title = "Reward models against baselines that do not read the client's speech, or only count words shared with it"
    return report_table("reward-baselines", title, headings, rows, *notes)


def _baseline_rows(summary: Figures) -> Iterator[list[Cell]]:
    for name, blind in summary["baselines"]["blind"].items():
        yield [TITLES.get(name, name), "replies only", None, measured(blind, "accuracy", True), None]
    yield from (["words shared with the speech", *row] for row in reading_rows(summary["baselines"]["overlap"]))
    for name, reading in summary.get("reading", {}).items():
        if reading is not None:
            yield from ([f"reward model {name}", *row] for row in reading_rows(reading))


def _principle_reading(runs: Runs) -> list[ReportTable]:
    rows = [
        [run.title, name, *cells]
        for run in runs
        for name, principles in run.figures.summary.get("principle_reading", {}).items()
        for cells in principle_rows(principles)
    ]
    return principle_table("reward-principle-reading", ["evaluation", "reward model"], rows)


def _conclusions(summary: Figures) -> Iterator[tuple[str, str]]:
    """Yield sentences, each with its tone, on the best baseline and on reading; nothing without baselines."""
    if "baselines" not in summary:
        return
    blind = summary["baselines"]["blind"]
    best = max(blind, key=lambda name: blind[name]["accuracy"])
    share = percent_text(blind[best])
    only = f"the best baseline that sees only the replies ({TITLES.get(best, best)})"
    yield f"{only} is right on {share} of the pairs.", "plain"
    for name, reading in summary.get("reading", {}).items():
        if reading is None:
            unknown = f"no pair with another client's speech fits {name}'s length, so its use of the speech is unknown."
            yield unknown, "warning"
        else:
            yield uses_speech(f"the reward model {name}", reading)


# Accuracy by kind of pair


def _slices(runs: Runs) -> list[ReportTable]:
    rows = list[list[Cell]]()
    for run in runs:
        for kind, slices in run.figures.summary.get("slices", {}).items():
            by = ", ".join(sorted(slices["by"]))
            for name, result in slices["slices"].items():
                numbers = [count(result["pairs"]), count(result["components"]), measured(result, "accuracy", True)]
                few = "few components" if result["few"] else ""
                rows.append([run.title, kind, name, *numbers, by, few])
    headings = ["evaluation", "kind", "slice", "pairs", "components", "accuracy", "named by", "note"]
    notes = [
        f"of the reward model under evaluation only; {_BY_PROMPT}",
        "components are groups of pairs that share a text",
        f"few components: fewer than {FEW}, too few to trust an interval",
        "gap: difference of both replies' mean ratings; length: chosen reply compared with the rejected one",
        "crisis includes every speech with a risk; rules name topics and risks by English keywords",
    ]
    return report_table("reward-slices", "Accuracy by kind of pair", headings, rows, *notes)
