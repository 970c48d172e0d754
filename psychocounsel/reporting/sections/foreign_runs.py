"""Runs whose files say other things than this version reads: shown as such, while the rest of their section stands."""

from collections.abc import Callable
from dataclasses import replace

from psychocounsel.reporting.blocks import Paragraph, Section
from psychocounsel.reporting.material import Material

BuildSection = Callable[[Material], Section]
_FOREIGN = (KeyError, TypeError, AttributeError, IndexError, ValueError)


def tolerant(section: BuildSection) -> BuildSection:
    """`section` without the runs that it cannot read, of which a line says so.

    A section reads figures as this version writes them. Each run that fails by itself is left out; where none does, the error
    is the section's own and is raised.
    """

    def build(material: Material) -> Section:
        try:
            return section(material)
        except _FOREIGN:
            foreign = [run for run in material.runs if not _readable(section, replace(material, runs=[run]))]
            if not foreign:
                raise
        skipped = {id(run) for run in foreign}  # runs compare by all of their lines, which takes long
        found = section(replace(material, runs=[run for run in material.runs if id(run) not in skipped]))
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
