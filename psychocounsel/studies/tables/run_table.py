"""kind: runs. One row per setting, one column per figure of its runs' summaries, with the paper's rows below.

winrates: {kind: runs, rows: [winrate], columns: {win rate: {metric: win_rate, percent: true}}, paper: win_rates}
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from psychocounsel.blocks.tables import Cell, Table, TableFigure
from psychocounsel.rundir.run_config import module_of
from psychocounsel.settings.command import command_of
from psychocounsel.settings.own_code import is_agreed
from psychocounsel.settings.schema import suggestion
from psychocounsel.studies.tables.runs import Runs, Setting, StudyRun, of_setting, settings

KEYS = ("columns", "paper")
_PUBLISHED = Path(__file__).with_name("published.yaml")


def problems(layout: Mapping[str, Any]) -> Iterator[str]:
    """Yield mistakes in the layout of a table of this kind, one per line."""
    columns = layout.get("columns")
    if columns is not None and (not isinstance(columns, Mapping) or not columns):
        yield "columns: must contain HEADING: METRIC, or HEADING: {metric: METRIC, percent: true}"
        return
    for heading, given in (columns or {}).items():
        named = given.get("metric") if isinstance(given, Mapping) else given
        if not isinstance(named, str) or (isinstance(given, Mapping) and set(given) - {"metric", "percent"}):
            yield f"columns.{heading}: must be a metric, or {{metric: METRIC, percent: true}}"
    paper = layout.get("paper")
    if paper is not None and str(paper) not in published():
        known = f"they are {', '.join(published())}"
        yield f"paper={paper}: no such published figures; {suggestion(str(paper), [*published()], known)}"
    elif paper is not None and columns and (strange := set(published()[paper]["columns"]) - set(columns)):
        yield f"columns: {sorted(strange)[0]} is missing, which the paper's rows have"


def metrics(layout: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the figures named by a layout without mistakes, each with its place in the file."""
    return ((f"columns.{heading}", _column(given)[0]) for heading, given in (layout.get("columns") or {}).items())


def table(runs: Runs, layout: Mapping[str, Any], title: str) -> Table:
    """Return the table of a layout without mistakes."""
    all_settings = settings(runs, layout["rows"])
    columns = {str(heading): _column(given) for heading, given in (layout.get("columns") or {}).items()}
    rows = (
        [_row(setting, columns) for setting in all_settings]
        if columns
        else [_own_row(setting) for setting in all_settings]
    )
    headings = ["setting", "runs", *(columns or ("metric", "value"))]
    notes = [
        f"{setting.title}: {doubt}"
        for setting in all_settings
        for doubt in dict.fromkeys(doubt for run in setting.finished for doubt in run.summary.get("doubts", []))
    ]
    if layout.get("paper"):
        rows += _paper_rows(layout["paper"], [*columns])
        notes.append(f"(paper): {published()[layout['paper']]['source']}; not measured here")
    return Table(title, headings, rows, notes)


@cache
def published() -> dict[str, Any]:
    """Return the paper's published figures by table: `source`, `columns`, and `rows` of percentages or plain numbers."""
    content: dict[str, Any] = yaml.safe_load(_PUBLISHED.read_text())
    return content


def _column(given: Any) -> tuple[str, bool]:
    return (given, False) if isinstance(given, str) else (given["metric"], bool(given.get("percent")))


def _row(setting: Setting[StudyRun], columns: Mapping[str, tuple[str, bool]]) -> list[Cell]:
    return [setting.title, setting.count, *(of_setting(setting, key, percent) for key, percent in columns.values())]


def _own_row(setting: Setting[StudyRun]) -> list[Cell]:
    """Return the row of a setting with the main metric of its own command."""
    metric = next((metric for run in setting.finished if (metric := _metric_of(run))), None)
    return [setting.title, setting.count, metric, of_setting(setting, metric) if metric else None]


def _metric_of(run: StudyRun) -> str:
    if run.config is None or not is_agreed(run.run_dir):
        return ""
    return command_of(module_of(run.run_dir)).metric(run.config)


def _paper_rows(name: str, headings: list[str]) -> list[list[Cell]]:
    about = published()[name]
    percent = set(about.get("percent", ()))
    rows = list[list[Cell]]()
    for title, values in about["rows"].items():
        shares = {
            heading: TableFigure(value / 100 if heading in percent else value, percent=heading in percent)
            for heading, value in zip(about["columns"], values, strict=True)
        }
        rows.append([f"{title} (paper)", "", *(shares.get(heading) for heading in headings)])
    return rows
