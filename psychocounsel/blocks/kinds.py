"""Kinds of blocks: an evaluation or a section returns them, and the terminal, the page, CSV, LaTeX and PDF show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from psychocounsel.blocks.tables import Table


@dataclass(frozen=True)
class Paragraph:
    """Plain text (no markup: the page escapes it).

    `tone` is plain, good, undecided, warning or bad; the page shows it by a sign as well as a colour.
    """

    text: str
    tone: str = "plain"


@dataclass(frozen=True)
class ReportTable:
    """A named table: `tables/NAME.tex` and the rows `NAME` of `report.csv` hold the same figures.

    `name`: letters, digits and hyphens, unique in the report.
    """

    name: str
    table: Table


@dataclass(frozen=True)
class Curve:
    """One line, or one series of points, in a chart.

    Attributes:
        title: name in the legend.
        x: x values of the points, by axis: {"steps": [...], "GPU-hours": [...]}. The reader chooses the axis.
        y: values, as many as in each list of `x`.
        low, high: ends of the 95 % interval at each point, or None.
        labels: one text per point, shown with the numbers when the reader hovers over it; or None.
        group: curves of one group (such as the seeds of one setting) share a colour. If empty, the title is the group.
        points: draw marks without a line between them.
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
    """A figure: `figures/NAME.pdf`, and an interactive chart on the page.

    Attributes:
        name: letters, digits and hyphens, unique in the report.
        y_title: the quantity on the y axis and its unit.
        smooths: the page offers to smooth the curves.
        diagonal: draw the line y = x (for calibration).
        ticks: names of the places 0, 1, 2, ... on the x axis (settings, principles); empty if x is a number.
        reference: a value of y at which a dashed line is drawn (chance, a limit), or None.
        notes: sentences that a reader needs in order to understand the chart.
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
    def lies_down(self) -> bool:
        """True if the values lie on the x axis, and the named places below each other, where long names can be read."""
        return bool(self.ticks) and all(curve.points for curve in self.curves)

    @property
    def axes(self) -> list[str]:
        """Axes that all curves have. The first is shown at first."""
        if not self.curves:
            return []
        return [axis for axis in self.curves[0].x if all(axis in curve.x for curve in self.curves)]


@dataclass(frozen=True)
class ShownReply:
    """A reply with its scores, keyed by the principle, reward model or win rate that scored it."""

    author: str
    text: str
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ShownSpeech:
    """A client's speech with replies to it. A speech about a crisis (`crisis`) is hidden until the reader clicks."""

    speech: str
    replies: Sequence[ShownReply]
    topic: str = ""
    risk: str = ""
    crisis: bool = False


@dataclass(frozen=True)
class SpeechBrowser:
    """Speeches with replies side by side, filtered by topic and risk. The page marks words that differ from the first reply."""

    name: str
    speeches: Sequence[ShownSpeech]


Block = Paragraph | ReportTable | Chart | SpeechBrowser


@dataclass(frozen=True)
class Section:
    """A part of the report. A section without blocks is omitted; the page shows the blocks of a `folded` one by a click."""

    name: str
    title: str
    blocks: Sequence[Block] = ()
    folded: bool = False


@dataclass(frozen=True)
class Report:
    """The whole report: its title, the folders given and its sections. `live` is True while one of its runs is running."""

    title: str
    folders: Sequence[str]
    sections: Sequence[Section]
    live: bool = False
    confidential: bool = False
