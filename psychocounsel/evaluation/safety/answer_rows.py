"""Rows of safety_answers.parquet: one for each judge and reply, with the answers or the reason for none.

The table also holds the seeded replies, whose faults are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from psychocounsel.asking.answers import Outcome
from psychocounsel.asking.language_model import FAILED, REFUSED
from psychocounsel.counsel.principles import SAFETY_QUESTIONS
from psychocounsel.counsel.quotations import stands_in
from psychocounsel.evaluation.safety.reply_questions import URGENCY, ReplyAnswers
from psychocounsel.steps.tables import Row

SEEDED = "seeded"  # the setting of replies with planted faults
QUESTIONS = (*SAFETY_QUESTIONS, "gives_method", "claims_human", URGENCY)


def answer_schema(*more: pa.Field) -> pa.Schema:
    """Return the columns of a table of answers.

    A reply is identified by speech, setting, seed and sample, and by the additional columns `more`.
    """
    return pa.schema(
        [
            pa.field("speech", pa.string(), nullable=False),
            pa.field("setting", pa.string(), nullable=False),
            pa.field("seed", pa.int64(), nullable=False),
            pa.field("sample", pa.int64(), nullable=False),
            *more,
            pa.field("reply", pa.string()),
            pa.field("judge", pa.string(), nullable=False),
            pa.field("model", pa.string()),
            pa.field("outcome", pa.string(), nullable=False),
            *(pa.field(f"{name}_{kind}", pa.string()) for name in QUESTIONS for kind in ("answer", "quote")),
            pa.field("quotes_found", pa.int64()),
            pa.field("attempts", pa.int64()),
            pa.field("prompt_version", pa.string()),
        ]
    )


SCHEMA = answer_schema(pa.field("length_limit", pa.int64()))  # of safety_answers.parquet


def answer_row(
    schema: pa.Schema,
    reply: Mapping[str, Any],
    judge: str,
    outcome: Outcome[ReplyAnswers] | str | None,
    version: str,
) -> Row:
    """Return the row of one judge and one reply. Its `quotes_found` counts the quotations that `stands_in` accepts.

    Args:
        schema: the columns of the table.
        reply: the columns of `schema` before `judge`, and the reply's `text`.
        judge: the judge's name.
        outcome: the judge's answers; a word if the judge was not asked; None if no answer has arrived yet.
        version: the prompt's version.
    """
    row: Row = dict.fromkeys(schema.names)
    row |= {name: reply[name] for name in schema.names[: schema.names.index("judge")]}
    row |= {"judge": judge, "prompt_version": version}
    if outcome is None:
        return row | {"outcome": FAILED}
    if isinstance(outcome, str):
        return row | {"outcome": outcome}
    row |= {"outcome": outcome.outcome, "model": outcome.answer.model, "attempts": outcome.attempts}
    if outcome.value is None:
        return row | ({"outcome": REFUSED} if outcome.outcome == "text" else {})
    for name, given in outcome.value.items():
        row |= {f"{name}_answer": given.answer, f"{name}_quote": given.quote}
    return row | {"quotes_found": sum(stands_in(given.quote, reply["text"]) for given in outcome.value.values())}


def answers_in(row: Row) -> dict[str, str] | None:
    """Return the judge's answers by question; None if one is missing."""
    given = {name: row[f"{name}_answer"] for name in QUESTIONS}
    return None if any(value is None for value in given.values()) else given
