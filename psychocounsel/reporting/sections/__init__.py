"""The sections of a report, in their order: each makes its blocks of the material alone, and is left out without any."""

from psychocounsel.reporting.sections.evaluations import EVALUATION_SECTIONS
from psychocounsel.reporting.sections.foreign_runs import BuildSection
from psychocounsel.reporting.sections.training import TRAINING_SECTIONS

SECTIONS: tuple[BuildSection, ...] = (*TRAINING_SECTIONS, *EVALUATION_SECTIONS)
