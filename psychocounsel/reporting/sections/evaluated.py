"""Runs of an evaluation as a section: those with figures, and a warning for each run without."""

from collections.abc import Callable, Iterable

from psychocounsel.blocks.kinds import Block, Paragraph
from psychocounsel.reporting.material import EVALUATION, Material, RunMaterial


def evaluations(material: Material, what: str) -> list[RunMaterial]:
    """Return the runs of `evaluation=WHAT`, in the order in which they were given."""
    return [run for run in material.of(EVALUATION) if run.what == what]


def without_figures(runs: Iterable[RunMaterial], has: Callable[[RunMaterial], bool]) -> list[Block]:
    """Return a warning for each run that has no figures yet."""
    return [
        Paragraph(f"{run.title}: no figures, because it is {run.status}.", "warning") for run in runs if not has(run)
    ]
