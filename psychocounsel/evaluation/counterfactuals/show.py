"""Blocks of counterfactuals: how often a reward model notices worse replies, and how much changes of style move its reward."""

from collections.abc import Iterator, Sequence

from psychocounsel.blocks.cells import Figures, Titled, count, name_in, named, report_table
from psychocounsel.blocks.kinds import ReportTable
from psychocounsel.blocks.tables import Cell
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.metrics.win_rates import BY_CLIENT

Runs = Sequence[Titled[Figures]]


def counterfactual_blocks(runs: Runs) -> list[ReportTable]:
    """Return tables of sensitivity and of invariance. `runs` hold the result of `figures_and_rows`."""
    return [*_sensitivity(runs), *_invariance(runs)]


def _sensitivity(runs: Runs) -> list[ReportTable]:
    rows = list[list[Cell]]()
    for run in runs:
        for principle in PRINCIPLES:
            noticed = run.figures["sensitivity"].get(principle) or {"count": 0}
            rows.append([run.title, principle, count(noticed["count"]), named(noticed, "value", True)])
    notes = [
        "each reply is made worse on one principle; noticed: the original has the larger reward (a tie counts half)",
        "50 % is chance",
        BY_CLIENT,
        *(name_in(run.title, text, len(runs) > 1) for run in runs for text in _origins(run.figures)),
    ]
    title = "Worsened replies that the reward model notices"
    return report_table("reward-sensitivity", title, ["evaluation", "principle", "changes", "noticed"], rows, *notes)


def _origins(figures: Figures) -> Iterator[str]:
    """Yield who changed the replies, and which replies are missing."""
    sources = sorted({made["by"] for made in figures["made"].values()}, reverse=True)
    yield f"replies of {figures['pairs']} pairs changed by {' and by a '.join(sources)}; the rules are for English"
    if figures["not_sent"]:
        yield f"{figures['not_sent']} replies were not sent to the language model, because they contain control tokens as text"
    if figures["left_out"]:
        yield f"{figures['left_out']} changed replies were skipped, because they are too long for the reward model"


def _invariance(runs: Runs) -> list[ReportTable]:
    rows = list[list[Cell]]()
    for run in runs:
        for name, moved in {**run.figures["invariance"], "all of these": run.figures["all_styles"]}.items():
            if moved:
                cells = [named(moved, key, key == "flips") for key in ("change", "shift", "flips")]
                rows.append([run.title, name.replace("_", " "), count(moved["count"]), *cells])
    headings = ["evaluation", "change of looks", "changes", "size of the movement", "mean movement", "verdicts flipped"]
    units = "movements are in units of the median gap between both replies' rewards: 0 is best"
    notes = [units, BY_CLIENT]
    return report_table("reward-invariance", "Movement of the reward by looks alone", headings, rows, *notes)
