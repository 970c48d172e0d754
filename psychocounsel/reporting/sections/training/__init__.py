"""Sections on training runs. A new one is a file with `section(material)`, and a line here."""

from psychocounsel.reporting.sections.foreign_runs import BuildSection

TRAINING_SECTIONS: tuple[BuildSection, ...] = ()
