"""Sections on training runs. To add one, write a file with `section(material)` and list it here."""

from psychocounsel.reporting.sections.foreign_runs import BuildSection, tolerant
from psychocounsel.reporting.sections.training import (
    cost_section,
    curve_section,
    effect_section,
    final_section,
    overoptimisation_section,
    pareto_section,
    round_section,
)

TRAINING_SECTIONS: tuple[BuildSection, ...] = (
    tolerant(curve_section.section),
    tolerant(final_section.section),
    tolerant(effect_section.section),
    tolerant(round_section.section),
    tolerant(overoptimisation_section.section),
    tolerant(pareto_section.section),
    tolerant(cost_section.section),
)
