"""The report as one HTML file that loads nothing from the network: an escaping template, plotly.js, own style and scripts."""

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from psychocounsel.blocks.kinds import Chart, Paragraph, Report, ReportTable, SpeechBrowser
from psychocounsel.reporting.page.views import BrowserView, ChartView, TableView, looks_of_groups, points_per_curve
from psychocounsel.storage.files import write_atomically

# Content security policy: the page may run its own scripts and styles, named by their hashes, and load nothing else

_SIGNS = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def content_policy(scripts: Sequence[str], styles: Sequence[str], served: bool) -> str:
    """Return a Content-Security-Policy. A served page may connect to its own server. A page opened as a file may not connect.

    Images are allowed as `data:` and `blob:`, because the page makes one when a reader saves a chart.
    """
    rules = {
        "default-src": "'none'",
        "script-src": " ".join(map(_hash, scripts)),
        "style-src": " ".join(map(_hash, styles)),
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    if served:
        rules["connect-src"] = "'self'"
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def json_for_script(value: object) -> Markup:
    """Return JSON for a `<script type="application/json">`, escaped so that no character can end the element."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return Markup("".join(_SIGNS.get(sign, sign) for sign in text) if _SIGNS.keys() & set(text) else text)


# The page

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
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.jinja")


@cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # half a second to import

    return str(get_plotlyjs())
