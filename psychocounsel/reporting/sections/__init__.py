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

# Training runs

TRAINING_SECTIONS: tuple[BuildSection, ...] = (
    tolerant(curves.curve_section),
    tolerant(curves.other_curve_section),
    tolerant(by_setting.final_section),
    tolerant(by_setting.effect_section),
    tolerant(curves.round_section),
    tolerant(trade_offs.overoptimisation_section),
    tolerant(trade_offs.pareto_section),
    tolerant(cost.section),
)

# Evaluations, datasets and audits

EVALUATION_SECTIONS: tuple[BuildSection, ...] = (
    tolerant(by_setting.evaluation_section),
    tolerant(evaluated.winrate_section),
    tolerant(evaluated.reward_section),
    tolerant(evaluated.best_of_section),
    tolerant(evaluated.gate_section),
    tolerant(evaluated.safety_section),
    tolerant(evaluated.session_section),
    tolerant(evaluated.health_section),
    tolerant(evaluated.external_section),
    tolerant(replies.reply_section),
    tolerant(datasets.section),
    tolerant(evaluated.audit_section),
)

# The report

OPEN = (
    "answer",
    "question",
    "missing",
    "studies",
    "curves",
    "safety",
    "replies",
)  # the page shows the others by a click

SECTIONS: tuple[BuildSection, ...] = (
    tolerant(answer.section),
    tolerant(overview.question_section),
    tolerant(overview.missing_section),
    tolerant(overview.study_section),
    *TRAINING_SECTIONS,
    *EVALUATION_SECTIONS,
)
