"""The sections of a report, in order. Each builds its blocks from the material alone and is omitted if it has none."""

from psychocounsel.reporting.sections import answer_section, missing_section, question_section, study_section
from psychocounsel.reporting.sections.evaluations import EVALUATION_SECTIONS
from psychocounsel.reporting.sections.foreign_runs import BuildSection, tolerant
from psychocounsel.reporting.sections.training import TRAINING_SECTIONS

SECTIONS: tuple[BuildSection, ...] = (
    tolerant(question_section.section),
    tolerant(answer_section.section),
    tolerant(missing_section.section),
    tolerant(study_section.section),
    *TRAINING_SECTIONS,
    *EVALUATION_SECTIONS,
)
