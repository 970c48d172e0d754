"""Step `sets`: contestants answer exams and prompts, judges rate the replies; writes exams.parquet and ratings.parquet."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from psychocounsel.asking.answers import Answers
from psychocounsel.asking.budget import Budget, Estimate
from psychocounsel.asking.counsellor_prompt import prompt_text
from psychocounsel.counsel.risk_rules import read_risk_rules
from psychocounsel.evaluation.external.exam_figures import ExamAnswer
from psychocounsel.evaluation.external.exam_items import ExamSet
from psychocounsel.evaluation.external.rubric_figures import RubricRating
from psychocounsel.evaluation.external.set_asking import Asked, SetRules, answer_exam, estimate_sets, rate_set
from psychocounsel.evaluation.external.set_files import read_sets
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.context import StepContext
from psychocounsel.steps.tables import written

_OF_BOTH = [
    pa.field("set", pa.string(), nullable=False),
    pa.field("item", pa.string(), nullable=False),
    pa.field("setting", pa.string(), nullable=False),
    pa.field("seed", pa.int64(), nullable=False),
]
EXAMS = pa.schema(
    [
        *_OF_BOTH,
        pa.field("order", pa.int64(), nullable=False),
        pa.field("shown", pa.list_(pa.int64()), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("chosen", pa.list_(pa.int64())),
        pa.field("text", pa.string(), nullable=False),
    ]
)
RATINGS = pa.schema(
    [
        *_OF_BOTH,
        pa.field("sample", pa.int64(), nullable=False),
        pa.field("reply_outcome", pa.string(), nullable=False),
        pa.field("reply", pa.string(), nullable=False),
        pa.field("judge", pa.string(), nullable=False),
        pa.field("outcome", pa.string()),
        pa.field("values", pa.list_(pa.int64())),
    ]
)


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Buy the answers and ratings that the journal lacks, and write both tables.

    Raises:
        BudgetSpent: if the budget is spent before all are bought; the journal keeps the bought ones.
        UserError: if a file, a key or an address is wrong, or no server is left.
    """
    config, rules = context.config, rules_of(context)
    contestants, judges = _asked(context), build(config, "judge").models()
    sets = sets_of(context)
    models = [*(each.model for each in contestants), *judges]
    with closing(Answers(context.files.answers)) as answers:
        budget = Budget.of(config.budget.cost, config.budget.calls, answers, models)
        with written(context.files.exams, EXAMS) as add_answer, written(context.files.ratings, RATINGS) as add_rating:
            for each in context.bar(sets, "sets"):
                if isinstance(each, ExamSet):
                    for answer in answer_exam(each, contestants, rules, answers, budget):
                        add_answer({"set": each.name, **_row(answer)})
                else:
                    for rating in rate_set(each, contestants, judges, rules, answers, budget):
                        add_rating({"set": each.name, **_row(rating)})
    return {"sets": [each.name for each in sets], "spent": budget.spent, "bought": budget.made}


def estimate(context: StepContext[EvaluationDir]) -> Estimate:
    """Estimate the contestants' calls that the journal lacks."""
    with closing(Answers(context.files.answers)) as answers:
        return estimate_sets(sets_of(context), _asked(context), rules_of(context), answers)


def sets_of(context: StepContext[EvaluationDir]) -> list[Any]:
    """Return the sets that the configuration names."""
    return read_sets(build(context.config, "evaluation").sets)


def rules_of(context: StepContext[EvaluationDir]) -> SetRules:
    """Return the rules for calls that the configuration sets."""
    config, risks = context.config, read_risk_rules()
    prompt = config.replies.system_prompt
    return SetRules(
        config.evaluation.shuffles,
        config.replies.samples,
        prompt_text(prompt, "replies.system_prompt", None) if prompt else None,
        config.evaluation.seed,
        lambda text: risks.of(text).crisis,
        config.crisis_to_third_parties,
    )


def _asked(context: StepContext[EvaluationDir]) -> list[Asked]:
    return [Asked(each.model, each.setting, each.seed) for each in build(context.config, "contestants").all()]


def _row(found: ExamAnswer | RubricRating) -> dict[str, Any]:
    row = asdict(found)
    if isinstance(found, ExamAnswer):
        return row | {"shown": [*found.shown], "chosen": None if found.chosen is None else sorted(found.chosen)}
    return row | {"values": None if found.values is None else [int(value) for value in found.values]}
