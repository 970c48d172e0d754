"""Sections on evaluations, datasets and audits. To add one, write a file with `section(material)` and list it here."""

from psychocounsel.reporting.sections.evaluations import (
    audit_section,
    dataset_section,
    external_section,
    gate_section,
    health_section,
    reply_section,
    reward_section,
    safety_section,
    session_section,
    setting_section,
    win_rate_section,
)
from psychocounsel.reporting.sections.foreign_runs import BuildSection, tolerant

EVALUATION_SECTIONS: tuple[BuildSection, ...] = (
    tolerant(setting_section.section),
    tolerant(win_rate_section.section),
    tolerant(reward_section.section),
    tolerant(gate_section.section),
    tolerant(safety_section.section),
    tolerant(session_section.section),
    tolerant(health_section.section),
    tolerant(external_section.section),
    tolerant(reply_section.section),
    tolerant(dataset_section.section),
    tolerant(audit_section.section),
)
