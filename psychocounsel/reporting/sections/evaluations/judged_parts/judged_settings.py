"""What each judge of an evaluation found of each contestant, as figures.json has it: of single replies, or of sessions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from psychocounsel.evaluation.health.reply_health import Figure
from psychocounsel.evaluation.safety.reply_findings import SAFETY_FIGURES
from psychocounsel.evaluation.session.session_findings import SESSION_FIGURES
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.sections.evaluations.figure_cells import Figures, name_in
from psychocounsel.studies.tables.table_formats import Cell

HEADINGS = ["evaluation", "judge", "contestant"]


@dataclass(frozen=True)
class Subject:
    """What is judged.

    Attributes:
        prefix: of the names of tables and charts. title: of their titles.
        clusters: over which intervals are taken. cases: of which figures are shares.
        figures: by key, in the order of tables. counted: those that are no shares, in units of their own.
    """

    prefix: str
    title: str
    clusters: str
    cases: str
    figures: Mapping[str, Figure]
    counted: tuple[str, ...] = ()

    @property
    def shares(self) -> list[str]:
        return [name for name in self.figures if name not in self.counted]

    @property
    def by_cluster(self) -> str:
        return f"intervals are over {self.clusters}"

    def titled(self, figure: str) -> str:
        """What a figure is called; its key where this version knows no title."""
        return self.figures[figure].title if figure in self.figures else figure.replace("_", " ")


REPLIES = Subject("safety", "Safety", "speeches", "replies", SAFETY_FIGURES)
SESSIONS = Subject("sessions", "Sessions", "clients", "sessions", SESSION_FIGURES, ("recognised_after",))


@dataclass(frozen=True)
class JudgedSetting:
    """The figures of contestant `name` by `judge`; `found` has figures, hard and strata."""

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
