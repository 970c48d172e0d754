"""Comparison of reward models on the same pairs with Holm's adjustment, and a reward model's response to changed replies."""

from collections.abc import Iterator, Sequence

from psychocounsel.reporting.blocks import ReportTable
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.sections.evaluations.figure_cells import count, exact, measured, named, report_table
from psychocounsel.studies.tables.formats import Cell

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
