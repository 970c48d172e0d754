"""Table flow_answers.parquet: one row for each judge, session and question asked about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from psychocounsel.asking.language_model import FAILED
from psychocounsel.counsel.quotations import stands_in
from psychocounsel.evaluation.flows.conversation_questions import JudgedFlow, QuestionAsk, spoken_text
from psychocounsel.steps.tables import Row

SCHEMA = pa.schema(
    [
        pa.field("speech", pa.string(), nullable=False),
        pa.field("persona", pa.string(), nullable=False),
        pa.field("setting", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("sample", pa.int64(), nullable=False),
        pa.field("judge", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("dimension", pa.string(), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("severity", pa.string()),
        pa.field("quote", pa.string()),
        pa.field("quote_found", pa.bool_()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("model", pa.string()),
        pa.field("attempts", pa.int64()),
        pa.field("prompt_version", pa.string(), nullable=False),
    ]
)
_SESSION = ("speech", "persona", "setting", "seed", "sample")


def flow_answer_rows(session: Mapping[str, Any], way: JudgedFlow) -> Iterator[Row]:
    """Yield the rows of a judge's path; a question without an answer yet has the outcome `failed`.

    `quote_found` is True if the quotation occurs in the conversation (`stands_in`) or is `absent`.

    Args:
        session: a row of session_turns.parquet.
        way: the judge's path through the questions about this session.
    """
    spoken = spoken_text(way.conversation)
    head = {name: session[name] for name in _SESSION}
    head |= {"judge": way.judge.name, "prompt_version": way.prompt.version}
    for question in way.prompt.flow.questions:
        if (outcome := way.outcomes.get(question.id)) is None:
            continue
        row = dict.fromkeys(SCHEMA.names) | head | {"question": question.id, "dimension": question.dimension}
        row |= {"outcome": outcome.outcome, "model": outcome.answer.model, "attempts": outcome.attempts}
        if outcome.value is not None:
            answer, quote = way.said[question.id], outcome.value.quote
            row |= {"answer": answer, "severity": question.severity.get(answer)}
            row |= {"quote": quote, "quote_found": stands_in(quote, spoken)}
        yield row
    if way.call is not None:
        ask = way.call[1]
        assert isinstance(ask, QuestionAsk)
        asked = {"question": ask.question.id, "dimension": ask.question.dimension, "outcome": FAILED}
        yield dict.fromkeys(SCHEMA.names) | head | asked
