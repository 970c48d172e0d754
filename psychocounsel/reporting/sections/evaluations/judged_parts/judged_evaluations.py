"""Evaluations with judges' figures, and the warnings shown before these figures."""

from psychocounsel.reporting.blocks import Block
from psychocounsel.reporting.material import Material, RunMaterial
from psychocounsel.reporting.sections.evaluations.figure_cells import evaluations, without_figures
from psychocounsel.reporting.sections.evaluations.judged_parts.figure_tables import warnings_of


def judged_evaluations(material: Material, what: str) -> tuple[list[RunMaterial], list[Block]]:
    """Return the judged runs of `evaluation=WHAT`, and their warnings with one for each run without figures."""
    every = evaluations(material, what)
    runs = [run for run in every if _is_judged(run)]
    return runs, [*warnings_of(runs), *without_figures(every, _is_judged)]


def _is_judged(run: RunMaterial) -> bool:
    return bool(run.figures.get("judges"))
