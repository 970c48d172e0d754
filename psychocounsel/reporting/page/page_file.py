"""The whole page in one file: text from an escaping template, plotly.js, and the project's style and scripts."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from psychocounsel.reporting.blocks import Chart, Paragraph, Report, ReportTable, SpeechBrowser
from psychocounsel.reporting.page.chart_view import ChartView, looks_of_groups, points_per_curve
from psychocounsel.reporting.page.content_policy import content_policy, json_for_script
from psychocounsel.reporting.page.speech_view import BrowserView
from psychocounsel.reporting.page.table_view import TableView
from psychocounsel.storage.files import write_atomically

_ASSETS = Path(__file__).parent / "assets"
_SCRIPTS = ("theme.js", "tables.js", "browsers.js", "curves.js", "charts.js", "printing.js")
_WATCHING = "watching.js"


def write(report: Report, path: Path) -> None:
    """Write the report as one HTML file."""
    write_atomically(path, page_html(report))


def page_html(report: Report, version: str | None = None) -> str:
    """Return the page as text. If `version` is given, the page polls its server and reloads when the version changes."""
    charts = [block for section in report.sections for block in section.blocks if isinstance(block, Chart)]
    plotly = _plotly() if charts else ""
    script = "\n".join(_asset(name) for name in (*_SCRIPTS, *([_WATCHING] if version is not None else [])))
    style = _asset("page.css")
    text = _template().render(
        report=report,
        sections=[section for section in report.sections if section.blocks],
        views=_Views(charts),
        policy=content_policy([plotly, script], [style, ""], served=version is not None),
        plotly=Markup(plotly),
        style=Markup(style),  # our own files need no escaping
        script=Markup(script),
        version=version,
    )
    return text + "\n"


class _Views:
    """The template's access to blocks: their kinds, their views, and JSON."""

    def __init__(self, charts: list[Chart]) -> None:
        self._points = points_per_curve(charts)
        self._looks = looks_of_groups(charts)

    def kind(self, block: object) -> str:
        kinds = {Paragraph: "paragraph", ReportTable: "table", Chart: "chart", SpeechBrowser: "browser"}
        return kinds[type(block)]

    def table(self, block: ReportTable) -> TableView:
        return TableView(block.table)

    def chart(self, block: Chart) -> ChartView:
        return ChartView(block, self._points, self._looks)

    def browser(self, block: SpeechBrowser) -> BrowserView:
        return BrowserView(block)

    def json(self, value: object) -> Markup:
        return json_for_script(value)


@cache
def _template() -> Template:
    loader = PackageLoader("psychocounsel.reporting.page", "assets")
    found = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return found.get_template("page.html.jinja")


@cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # half a second to import

    return str(get_plotlyjs())
