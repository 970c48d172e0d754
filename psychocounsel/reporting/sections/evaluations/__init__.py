"""Sections on evaluations, datasets and audits. A new one is a file with `section(material)`, and a line here."""

from collections.abc import Callable

from psychocounsel.reporting.blocks import Section
from psychocounsel.reporting.material import Material
from psychocounsel.reporting.sections.evaluations import (
    audit_section,
    dataset_section,
    external_section,
    health_section,
    reply_section,
    reward_section,
    win_rate_section,
)

EVALUATION_SECTIONS: tuple[Callable[[Material], Section], ...] = (
    win_rate_section.section,
    reward_section.section,
    health_section.section,
    external_section.section,
    reply_section.section,
    dataset_section.section,
    audit_section.section,
)
