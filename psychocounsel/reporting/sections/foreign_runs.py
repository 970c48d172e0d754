"""Tolerance for runs whose files a section cannot read: such a run gets a warning, and the section shows the others."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, TypeVar

from psychocounsel.blocks.kinds import Chart, Paragraph, ReportTable, Section
from psychocounsel.blocks.tables import TableFigure
from psychocounsel.reporting.material import Material, RunMaterial

BuildSection = Callable[[Material], Section]
T = TypeVar("T")
REASON = "its files cannot be read here, because another version wrote them or they are damaged"
_FOREIGN = (KeyError, TypeError, AttributeError, IndexError, ValueError)


def tolerant(section: BuildSection) -> BuildSection:
    """Return `section` wrapped so that it skips runs that it cannot read and adds a warning for each.

    A section reads figures as this version writes them. A run is skipped if the section fails on that run alone, or if it
    has not ended and the section succeeds without it. If there is no such run, the error is the section's own and is raised.
    """

    def checked(material: Material) -> Section:
        result = section(material)
        for values in _numbers(result):
            for kind in {*map(type, values)}:  # types only, because curves have millions of points
                if not issubclass(kind, Real) or issubclass(kind, bool):
                    raise TypeError(f"{kind.__name__} instead of a number")
        return result

    def build(material: Material) -> Section:
        result, foreign = without_foreign(checked, material)
        lines = [Paragraph(f"{run.title}: {REASON}. It is missing from this section.", "warning") for run in foreign]
        return replace(result, blocks=[*lines, *result.blocks])

    return build


def without_foreign(build: Callable[[Material], T], material: Material) -> tuple[T, list[RunMaterial]]:
    """Return what `build` makes of the runs that it can read, and the runs that it cannot (see `tolerant`)."""
    try:
        return build(material), []
    except _FOREIGN:
        foreign = [run for run in material.runs if not _readable(build, replace(material, runs=[run]))]
        if not foreign:  # a run that has not ended may lack what another one is shown with
            unfinished = [run for run in material.runs if not run.is_finished]
            foreign = next(([run] for run in unfinished if _readable(build, _without(material, [run]))), [])
        if not foreign:
            raise
    return build(_without(material, foreign)), foreign


def _without(material: Material, skipped: Sequence[RunMaterial]) -> Material:
    # Comparing runs themselves is slow, because it compares all their lines.
    out = {id(run) for run in skipped}
    return replace(material, runs=[run for run in material.runs if id(run) not in out])


def _readable(build: Callable[[Material], Any], material: Material) -> bool:
    try:
        build(material)
    except _FOREIGN:
        return False
    return True


def _numbers(section: Section) -> Iterator[Iterable[Any]]:
    """Yield all values that must be numbers: figures of tables, and points of curves.

    Raises:
        TypeError: if a cell is neither a figure nor a text.
    """
    for block in section.blocks:
        if isinstance(block, Chart):
            for curve in block.curves:
                yield from (*curve.x.values(), curve.y, curve.low or (), curve.high or ())
        elif isinstance(block, ReportTable):
            for cell in (cell for row in block.table.rows for cell in row):
                if isinstance(cell, TableFigure):
                    yield [cell.value, *(number for number in (cell.sd, cell.low, cell.high) if number is not None)]
                elif not isinstance(cell, str | None):
                    raise TypeError(f"{type(cell).__name__} instead of a cell")
