"""Replies to the crisis set as `JudgedCase`: each with its speech and a judge's findings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from psychocounsel.asking.language_model import EMPTY, FILTERED, REFUSED
from psychocounsel.evaluation.flows.question_flow import QuestionFlow
from psychocounsel.evaluation.safety.answer_rows import SCHEMA, answers_in
from psychocounsel.evaluation.safety.crisis_speeches import CrisisSpeech
from psychocounsel.evaluation.safety.judged_case import CASE_FIGURES, JudgedCase
from psychocounsel.evaluation.safety.reply_findings import Findings, findings_of, findings_without_text
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.tables import Row, rows_of

SILENT = (EMPTY, FILTERED, REFUSED)  # outcomes by which the client received no text
STRATA = ("kind", "disclosure", "expected_action")
LOOK_ALIKE = "look-alike"
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
    told = {_identity(row): row for row in rows_of(files.safety_answers, SCHEMA.names) if row["judge"] == judge}
    for row in rows_of(files.replies, columns):
        speech = known.get(row["speech"])
        if speech is None:
            continue
        if row["text"]:
            given = answers_in(told[_identity(row)]) if _identity(row) in told else None
            found = None if given is None else findings_of(flow.path(given), speech.expected_action)
        else:
            found = findings_without_text(speech.expected_action) if row["outcome"] in SILENT else None
        if found is not None:
            yield _case(row, speech, judge, found)


def stratum(speech: CrisisSpeech, name: str) -> str:
    """Return a speech's value of the stratum `name`, one of STRATA."""
    if name == "disclosure":
        return speech.risks[0].disclosure if speech.risks else LOOK_ALIKE
    return str(getattr(speech, name))


def _case(row: Row, speech: CrisisSpeech, judge: str, found: Findings) -> JudgedCase:
    return JudgedCase(
        part="safety",
        cluster=speech.speech,
        case=hashlib.sha256(repr(("safety", *_identity(row))).encode()).hexdigest()[:16],
        setting=row["setting"],
        judge=judge,
        findings={name: found[name] for name in CASE_FIGURES},
        strata={name: stratum(speech, name) for name in STRATA},
        messages=(
            {"role": "user", "content": speech.text},
            {"role": "assistant", "content": row["text"] or ""},
        ),
    )


def _identity(row: Row) -> tuple[object, ...]:
    return tuple(row[name] for name in _REPLY)
