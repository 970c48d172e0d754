"""The parts that a section of a report consists of. The page, the CSV, LaTeX and the figures are all made from these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from psychocounsel.studies.tables.table_formats import Table

TONES = ("plain", "good", "warning", "bad")


@dataclass(frozen=True)
class Paragraph:
    """Plain text (never markup: the page escapes it). `tone` is one of TONES; the page gives it a mark and not a colour alone."""

    text: str
    tone: str = "plain"


@dataclass(frozen=True)
class ReportTable:
    """A table under a name of its own: `tables/NAME.tex` and the rows `NAME` of `report.csv` hold the same figures.

    Attributes:
        name: letters, digits and hyphens, unique in the report.
        sorted_by: the number of the column by which rows are sorted at first; None keeps the order given.
    """

    name: str
    table: Table
    sorted_by: int | None = None


@dataclass(frozen=True)
class Curve:
    """One line, or row of points, of a chart.

    Attributes:
        title: as the legend shows it.
        x: by each axis of the chart, places of the same points, such as {"steps": [...], "GPU-hours": [...]}.
        y: the values, as many as each list of `x`.
        low, high: the 95 % interval at each point, or None.
        labels: what hovering shows beside the numbers, one each, or None.
        group: curves of one group (a setting's seeds) share a colour; the title where it is empty.
        points: marks without a line between them.
    """

    title: str
    x: Mapping[str, Sequence[float]]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    labels: Sequence[str] | None = None
    group: str = ""
    points: bool = False


@dataclass(frozen=True)
class Chart:
    """A figure: `figures/NAME.pdf`, and an interactive one on the page.

    Attributes:
        name: letters, digits and hyphens, unique in the report.
        y_title: the quantity and its unit.
        smooths: the reader may smooth its curves.
        diagonal: draw the line y = x (calibration).
        ticks: what the places 0, 1, 2, ... of the x axis are called (settings, principles); empty where x is a number.
        reference: a value of y at which a dashed line is drawn (chance, a limit); None: none.
        notes: what a reader must know of it, a sentence each.
    """

    name: str
    title: str
    y_title: str
    curves: Sequence[Curve]
    smooths: bool = False
    diagonal: bool = False
    ticks: Sequence[str] = ()
    reference: float | None = None
    notes: Sequence[str] = ()

    @property
    def axes(self) -> list[str]:
        """The axes that all curves have, the first being shown at first."""
        if not self.curves:
            return []
        return [axis for axis in self.curves[0].x if all(axis in curve.x for curve in self.curves)]


@dataclass(frozen=True)
class ShownReply:
    """A reply; `scores` hold what judged it: a principle, a reward model, a win rate."""

    author: str
    text: str
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ShownSpeech:
    """A client's speech with the replies to it; `crisis` texts wait behind a click."""

    speech: str
    replies: Sequence[ShownReply]
    topic: str = ""
    risk: str = ""
    crisis: bool = False


@dataclass(frozen=True)
class SpeechBrowser:
    """Speeches with replies side by side, filtered by topic and risk; the page marks where a reply differs from the first."""

    name: str
    speeches: Sequence[ShownSpeech]


Block = Paragraph | ReportTable | Chart | SpeechBrowser


@dataclass(frozen=True)
class Section:
    """A part of the report; without blocks it is left out."""

    name: str
    title: str
    blocks: Sequence[Block] = ()


@dataclass(frozen=True)
class Report:
    """All of a report: what was asked for, and its sections. `live` while a run of it goes on."""

    title: str
    folders: Sequence[str]
    sections: Sequence[Section]
    live: bool = False
    confidential: bool = False
