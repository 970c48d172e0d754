"""Judged replies: the rows of safety_answers.parquet, and each reply as a `JudgedCase` with its findings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from psychocounsel.asking.answer_text import stands_in
from psychocounsel.asking.answers import Outcome
from psychocounsel.asking.language_model import EMPTY, FAILED, FILTERED, REFUSED
from psychocounsel.counsel.principles import SAFETY_QUESTIONS
from psychocounsel.data.messages import Message
from psychocounsel.evaluation.flows.questions import QuestionFlow
from psychocounsel.evaluation.safety.questions import (
    URGENCY,
    Findings,
    ReplyAnswers,
    findings_of,
    findings_without_text,
)
from psychocounsel.evaluation.safety.speeches import CrisisSpeech
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.tables import Row, rows_of
from psychocounsel.storage.text_hashes import text_id

# Rows of safety_answers.parquet: one for each judge and reply, with the answers or the reason for none.
#
# The table also holds the seeded replies, whose faults are known.

SEEDED = "seeded"  # the setting of replies with planted faults
QUESTIONS = (*SAFETY_QUESTIONS, "gives_method", "claims_human", URGENCY)


def answer_schema(*key_columns: pa.Field) -> pa.Schema:
    """Return the columns of a table of answers.

    A reply is identified by speech, setting, seed and sample, and by the additional columns `key_columns`.
    """
    return pa.schema(
        [
            pa.field("speech", pa.string(), nullable=False),
            pa.field("setting", pa.string(), nullable=False),
            pa.field("seed", pa.int64(), nullable=False),
            pa.field("sample", pa.int64(), nullable=False),
            *key_columns,
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
    for name, answer in outcome.value.items():
        row |= {f"{name}_answer": answer.answer, f"{name}_quote": answer.quote}
    return row | {"quotes_found": sum(stands_in(answer.quote, reply["text"]) for answer in outcome.value.values())}


def answers_in(row: Row) -> dict[str, str] | None:
    """Return the judge's answers by question; None if one is missing."""
    answers = {name: row[f"{name}_answer"] for name in QUESTIONS}
    return None if any(value is None for value in answers.values()) else answers


# `JudgedCase`: a judge's findings about one reply to a crisis speech, or about one whole session.

CASE_FIGURES = ("missed", "under_triage", "over_escalation", "colludes", "gives_method")


@dataclass(frozen=True)
class JudgedCase:
    """A case that the gate counts and that experts adjudicate.

    Attributes:
        part: the evaluation of the case, `safety` or `session`.
        cluster: id of the speech or of the persona. Cases of one cluster are not independent.
        case: an id, unique within a part, that does not reveal the model.
        setting: name of the setting that replied, from `replies.parquet`.
        judge: name of the judge.
        findings: 0 or 1 by CASE_FIGURES; None if the figure is not defined for this speech or persona.
        strata: values of kind, disclosure and expected_action, by these names; for a session also pattern.
        messages: the speech and the reply, or the whole session.
    """

    part: str
    cluster: str
    case: str
    setting: str
    judge: str
    findings: Mapping[str, float | None]
    strata: Mapping[str, str]
    messages: tuple[Message, ...]


# Replies to the crisis set as `JudgedCase`: each with its speech and a judge's findings.

SILENT = (EMPTY, FILTERED, REFUSED)  # outcomes by which the client received no text
STRATA = ("kind", "disclosure", "expected_action")
LOOK_ALIKE = "look-alike"
Flagged = dict[str, list[dict[str, str | None]]]  # by hard flag: `speech` and `reply`, the ids of each flagged reply
_REPLY = ("speech", "setting", "seed", "length_limit", "sample")


def safety_cases(
    files: EvaluationDir, judge: str, known: Mapping[str, CrisisSpeech], flow: QuestionFlow
) -> Iterator[JudgedCase]:
    """Yield a case for each reply without a text and each fully judged reply, in the order of replies.parquet.

    Replies that failed, were withheld, or lack the judge's answers are skipped, and so are replies to speeches outside
    the crisis set.

    Args:
        files: the run directory.
        judge: the judge's name.
        known: the crisis set, by id of the speech.
        flow: the judge's questions (`reply_flow`).
    """
    columns = [*_REPLY, "text", "outcome"]
    answered = {_identity(row): row for row in rows_of(files.safety_answers, SCHEMA.names) if row["judge"] == judge}
    for row in rows_of(files.replies, columns):
        speech = known.get(row["speech"])
        if speech is None:
            continue
        if row["text"]:
            answers = answers_in(answered[_identity(row)]) if _identity(row) in answered else None
            findings = None if answers is None else findings_of(flow.path(answers), speech.expected_action)
        else:
            findings = findings_without_text(speech.expected_action) if row["outcome"] in SILENT else None
        if findings is not None:
            yield _case(row, speech, judge, findings)


def without_text(replies: Iterable[Row]) -> list[Row]:
    """Return the rows of replies.parquet whose contestant was asked and gave no text."""
    return [row for row in replies if not row["text"] and row["outcome"] in SILENT]


def stratum(speech: CrisisSpeech, name: str) -> str:
    """Return a speech's value of the stratum `name`, one of STRATA."""
    if name == "disclosure":
        return speech.risks[0].disclosure if speech.risks else LOOK_ALIKE
    return str(getattr(speech, name))


def _case(row: Row, speech: CrisisSpeech, judge: str, findings: Findings) -> JudgedCase:
    return JudgedCase(
        part="safety",
        cluster=speech.speech,
        case=text_id(repr(("safety", *_identity(row)))),
        setting=row["setting"],
        judge=judge,
        findings={name: findings[name] for name in CASE_FIGURES},
        strata={name: stratum(speech, name) for name in STRATA},
        messages=(
            {"role": "user", "content": speech.text},
            {"role": "assistant", "content": row["text"] or ""},
        ),
    )


def _identity(row: Row) -> tuple[object, ...]:
    return tuple(row[name] for name in _REPLY)
