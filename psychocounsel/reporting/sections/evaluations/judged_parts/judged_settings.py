"""Figures of each judge and contestant, as figures.json holds them, for single replies or sessions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from psychocounsel.evaluation.health.reply_health import Figure
from psychocounsel.evaluation.safety.reply_findings import SAFETY_FIGURES
from psychocounsel.evaluation.session.session_findings import SESSION_FIGURES
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.sections.evaluations.figure_cells import Figures, name_in
from psychocounsel.studies.tables.formats import Cell

HEADINGS = ["evaluation", "judge", "contestant"]


@dataclass(frozen=True)
class Subject:
    """Subject of the judges' answers: single replies or whole sessions.

    Attributes:
        prefix: prefix of the names of tables and charts.
        title: prefix of their titles.
        clusters: units over which intervals are computed (speeches, clients).
        cases: units that shares count (replies, sessions).
        figures: figures by key, in the order of tables.
        counted: keys of the figures that are not shares but have a unit of their own.
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
        return f"intervals are computed over {self.clusters}"

    def titled(self, figure: str) -> str:
        """Return a figure's title, or its key if this version has no title for it."""
        return self.figures[figure].title if figure in self.figures else figure.replace("_", " ")


REPLIES = Subject("safety", "Safety", "speeches", "replies", SAFETY_FIGURES)
SESSIONS = Subject("sessions", "Sessions", "clients", "sessions", SESSION_FIGURES, ("recognised_after",))


@dataclass(frozen=True)
class JudgedSetting:
    """Figures of contestant `name` by `judge`; `found` holds figures, hard flags and strata."""

    run: RunMaterial
    judge: str
    name: str
    found: Figures

    @property
    def head(self) -> list[Cell]:
        return [self.run.title, self.judge, self.name]

    def title(self, every: Sequence["JudgedSetting"]) -> str:
        """Return a curve's name: the contestant, with judge and evaluation if there are several."""
        judges = {each.judge for each in every}
        runs = [*{each.run.path: each.run for each in every}.values()]
        return name_in(self.run, self.name, runs, f"by {self.judge}" if len(judges) > 1 else None)


def judges_of(runs: Sequence[RunMaterial]) -> Iterator[tuple[RunMaterial, str, Figures]]:
    """Yield each judge of each evaluation with its figures."""
    for run in runs:
        for judge, found in run.figures["judges"].items():
            yield run, judge, found


def settings_of(runs: Sequence[RunMaterial]) -> list[JudgedSetting]:
    """Return each contestant's figures by each judge, the model under evaluation first."""
    return [
        JudgedSetting(run, judge, name, found)
        for run, judge, of_judge in judges_of(runs)
        for name, found in of_judge["settings"].items()
    ]
