"""The sections of a report, in order. Each builds its blocks from the material alone and is omitted if it has none.

To add one, write a function `section(material)` and list it here.
"""

from psychocounsel.reporting.sections import (
    answer,
    by_setting,
    cost,
    curves,
    datasets,
    evaluated,
    overview,
    replies,
    trade_offs,
)
from psychocounsel.reporting.sections.foreign_runs import BuildSection, tolerant

# Evaluations, datasets and audits

EVALUATION_SECTIONS: tuple[BuildSection, ...] = (
    by_setting.evaluation_section,
    evaluated.winrate_section,
    evaluated.reward_section,
    evaluated.best_of_section,
    evaluated.gate_section,
    evaluated.safety_section,
    evaluated.session_section,
    evaluated.health_section,
    evaluated.external_section,
    replies.reply_section,
    datasets.section,
    evaluated.audit_section,
)

# The report

_SECTIONS: tuple[BuildSection, ...] = (
    answer.section,
    overview.question_section,
    overview.missing_section,
    overview.study_section,
    curves.curve_section,
    curves.other_curve_section,
    by_setting.final_section,
    by_setting.effect_section,
    curves.round_section,
    trade_offs.overoptimisation_section,
    trade_offs.pareto_section,
    cost.section,
    *EVALUATION_SECTIONS,
)
SECTIONS = tuple(map(tolerant, _SECTIONS))
# The page shows the others by a click.
OPEN = ("answer", "question", "missing", "studies", "curves", "safety", "replies")
