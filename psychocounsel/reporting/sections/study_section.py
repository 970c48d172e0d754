"""Section on a study: its stages with their status, gates and chosen runs, and the tables that it wrote."""

import csv
import io
from collections.abc import Iterator

from psychocounsel.reporting.blocks import Block, Paragraph, ReportTable, Section
from psychocounsel.reporting.material import Material, RunMaterial, StudyMaterial
from psychocounsel.studies.tables.formats import Cell, Table
from psychocounsel.studies.tables.runs import TableFigure

_PARTS = ("sd", "n", "low", "high")


def section(material: Material) -> Section:
    blocks: list[Block] = [
        block for study in material.studies for block in _of_study(study, material, len(material.studies) > 1)
    ]
    return Section("studies", "Stages of the study" if len(material.studies) == 1 else "Stages of the studies", blocks)


def _of_study(study: StudyMaterial, material: Material, several: bool) -> Iterator[Block]:
    own = {stage: _runs(study, material, stage) for stage in study.stages}
    rows: list[list[Cell]] = [
        [stage, str(len(runs)), str(sum(run.is_finished for run in runs)), _states(runs), *_choice(study, stage, runs)]
        for stage, runs in own.items()
    ]
    headings = ["stage", "runs", "finished", "others", "gate", "best run"]
    prefix = f"study-{_slug(study.name)}" if several else "study"
    yield ReportTable(f"{prefix}-stages", Table(f"Stages of {study.name}", headings, rows))
    for name, text in study.tables.items():
        yield _written(f"{prefix}-{_slug(name)}", name, text)


def _runs(study: StudyMaterial, material: Material, stage: str) -> list[RunMaterial]:
    return [run for run in material.runs if run.stage == stage and run.path.is_relative_to(study.path)]


def _states(runs: list[RunMaterial]) -> str:
    """Return the statuses of unfinished runs: `1 failed, 2 running`."""
    others = [run.status for run in runs if not run.is_finished]
    return ", ".join(f"{others.count(each)} {each}" for each in dict.fromkeys(others))


def _choice(study: StudyMaterial, stage: str, runs: list[RunMaterial]) -> tuple[str, str]:
    """Return the gate's verdict, and the title of the run that the study chose."""
    gate = (
        {True: "passed", False: "not passed", None: "not decided"}[study.gates[stage]] if stage in study.gates else ""
    )
    best = study.best.get(stage)
    chosen = next((run.title for run in runs if best is not None and run.path.resolve() == best.resolve()), "")
    return gate, chosen or (best.name if best is not None else "")


def _written(name: str, title: str, text: str) -> Block:
    """Return a table of the study from its CSV text. Columns `X, X sd, X n, X low, X high` become one figure."""
    lines = [*csv.reader(io.StringIO(text))]
    if len(lines) < 2:
        return Paragraph(f"Table {title} of the study is empty.", "warning")
    headings = lines[0]
    figures = [
        place
        for place, heading in enumerate(headings)
        if headings[place + 1 : place + 5] == [f"{heading} {part}" for part in _PARTS]
    ]
    inside = {place + offset for place in figures for offset in range(1, 5)}
    kept = [place for place in range(len(headings)) if place not in inside]
    rows = [
        [_cell(line, place, place in figures) for place in kept] for line in lines[1:] if len(line) == len(headings)
    ]
    return ReportTable(name, Table(f"{title} (written by the study)", [headings[place] for place in kept], rows))


def _cell(line: list[str], place: int, is_figure: bool) -> Cell:
    if not line[place]:
        return None
    try:
        value, sd, n, low, high = (
            (float(text) if text else None for text in line[place : place + 5]) if is_figure else (None,) * 5
        )
    except ValueError:  # a text in a column of figures
        return line[place]
    return line[place] if value is None else TableFigure(value, sd, low, high, int(n or 1))


def _slug(name: str) -> str:
    return "".join(sign if sign.isalnum() and sign.isascii() else "-" for sign in name)
