"""What each judge of a safety evaluation found of each contestant, as figures.json has it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from psychocounsel.evaluation.safety.reply_findings import SAFETY_FIGURES
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.sections.evaluations.figure_cells import Figures, name_in
from psychocounsel.studies.tables.table_formats import Cell

HEADINGS = ["evaluation", "judge", "contestant"]
BY_SPEECH = "intervals are over speeches"


@dataclass(frozen=True)
class JudgedSetting:
    """The figures of contestant `name` by `judge`; `found` has replies, speeches, figures, hard and strata."""

    run: RunMaterial
    judge: str
    name: str
    found: Figures

    @property
    def head(self) -> list[Cell]:
        return [self.run.title, self.judge, self.name]

    def title(self, every: Sequence["JudgedSetting"]) -> str:
        """What a curve is called: the contestant, with judge and evaluation where there are several."""
        judges = {each.judge for each in every}
        runs = [*{each.run.path: each.run for each in every}.values()]
        return name_in(self.run, self.name, runs, f"by {self.judge}" if len(judges) > 1 else None)


def judges_of(runs: Sequence[RunMaterial]) -> Iterator[tuple[RunMaterial, str, Figures]]:
    """Each judge of each evaluation with what stands under its name."""
    for run in runs:
        for judge, found in run.figures["judges"].items():
            yield run, judge, found


def settings_of(runs: Sequence[RunMaterial]) -> list[JudgedSetting]:
    """Each contestant by each judge, the evaluated model first."""
    return [
        JudgedSetting(run, judge, name, found)
        for run, judge, of_judge in judges_of(runs)
        for name, found in of_judge["settings"].items()
    ]


def titled(figure: str) -> str:
    """What a figure is called; its key where this version knows no title."""
    return SAFETY_FIGURES[figure].title if figure in SAFETY_FIGURES else figure.replace("_", " ")
