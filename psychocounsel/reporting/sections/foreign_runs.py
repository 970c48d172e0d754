"""Runs whose files say other things than this version reads: shown as such, while the rest of their section stands."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from numbers import Real
from typing import Any

from psychocounsel.reporting.blocks import Chart, Paragraph, ReportTable, Section
from psychocounsel.reporting.material import Material
from psychocounsel.studies.tables.figures import TableFigure

BuildSection = Callable[[Material], Section]
_FOREIGN = (KeyError, TypeError, AttributeError, IndexError, ValueError)


def tolerant(section: BuildSection) -> BuildSection:
    """`section` without the runs that it cannot read, of which a line says so.

    A section reads figures as this version writes them. Each run that fails by itself is left out; where none does, the error
    is the section's own and is raised.
    """

    def checked(material: Material) -> Section:
        found = section(material)
        for values in _numbers(found):
            for kind in {*map(type, values)}:  # by kinds: curves have millions of points
                if not issubclass(kind, Real) or issubclass(kind, bool):
                    raise TypeError(f"{kind.__name__} in the place of a number")
        return found

    def build(material: Material) -> Section:
        try:
            return checked(material)
        except _FOREIGN:
            foreign = [run for run in material.runs if not _readable(checked, replace(material, runs=[run]))]
            if not foreign:
                raise
            skipped = {id(run) for run in foreign}  # runs compare by all of their lines, which takes long
        found = checked(replace(material, runs=[run for run in material.runs if id(run) not in skipped]))
        said = "its files cannot be read here, because another version wrote them or they are damaged"
        lines = [Paragraph(f"{run.title}: {said}. It is in no figure of this section.", "warning") for run in foreign]
        return replace(found, blocks=[*lines, *found.blocks])

    return build


def _readable(section: BuildSection, material: Material) -> bool:
    try:
        section(material)
    except _FOREIGN:
        return False
    return True


def _numbers(section: Section) -> Iterator[Iterable[Any]]:
    """All that must be numbers: figures of tables, and points of curves.

    Raises:
        TypeError: for a cell that is neither a figure nor a text.
    """
    for block in section.blocks:
        if isinstance(block, Chart):
            for curve in block.curves:
                yield from (*curve.x.values(), curve.y, curve.low or (), curve.high or ())
        elif isinstance(block, ReportTable):
            for cell in (cell for row in block.table.rows for cell in row):
                if isinstance(cell, TableFigure):
                    yield [cell.value, *(each for each in (cell.sd, cell.low, cell.high) if each is not None)]
                elif not isinstance(cell, str | None):
                    raise TypeError(f"{type(cell).__name__} in the place of a cell")
