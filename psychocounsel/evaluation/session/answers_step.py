"""The step `answers` of `evaluation=session`: judges answer the questions about each reply, given the session before it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from psychocounsel.asking.budget import IMAGINED_WORDS
from psychocounsel.data.messages import Message
from psychocounsel.evaluation.safety.answers_step import answers_to_ask, judge_replies, seeded_rows
from psychocounsel.evaluation.safety.cases import answer_schema
from psychocounsel.evaluation.session.conversations_step import planned_sessions
from psychocounsel.evaluation.session.dialogue import SESSION, messages_of, sessions_in
from psychocounsel.evaluation.session.inputs import LANGUAGE
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import Row, by_speech

SCHEMA = answer_schema(pa.field("turn", pa.int64(), nullable=False))
_READ = (*SESSION, "turn", "client", "reply", "text")


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Ask the judges for all answers missing in the journal and write session_answers.parquet; raises as `judge_replies`."""
    return judge_replies(context, _replies, context.files.session_answers, SCHEMA)


def to_ask(context: StepContext[EvaluationDir], without_sessions: bool) -> list[str]:
    """Return the lines of a dry run. With `without_sessions`, placeholders of the longest sessions stand for those to come."""
    return answers_to_ask(context, _imagined if without_sessions else _replies)


def _imagined(context: StepContext[EvaluationDir]) -> Iterator[tuple[Row, Row]]:
    for plan in planned_sessions(context):
        messages: list[Message] = []
        for turn in range(plan.turns):
            speaker = f"{plan.contestant.setting} {plan.contestant.seed}"
            said = f"{plan.persona.id} {speaker} {plan.sample} {turn} " + "word " * IMAGINED_WORDS
            messages.append({"role": "user", "content": said})
            yield {"speech": plan.persona.id, "messages": json.dumps(messages), "language": LANGUAGE}, {"text": said}
            messages.append({"role": "assistant", "content": said})
    yield from seeded_rows()


def _replies(context: StepContext[EvaluationDir]) -> Iterator[tuple[Row, Row]]:
    """Yield each reply with a text and the session before it. Seeded replies are judged by the main run, not by shards."""
    for persona, turns in by_speech(context.files.session_turns, _READ):
        for rows in sessions_in(turns):
            for messages, row in messages_of(rows):
                if row["text"]:
                    yield {"speech": persona, "messages": json.dumps(messages), "language": LANGUAGE}, row
    if context.config.share is None:
        yield from ((speech, reply | {"turn": 0}) for speech, reply in seeded_rows())
