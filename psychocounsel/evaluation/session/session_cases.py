"""Whole sessions as `JudgedCase`, each with a judge's findings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from psychocounsel.counsel.principles import ACTIONS, DISCLOSURES
from psychocounsel.counsel.rubric.rubric_folder import load_rubric
from psychocounsel.evaluation.safety.judged_case import CASE_FIGURES, JudgedCase
from psychocounsel.evaluation.safety.reply_questions import reply_flow
from psychocounsel.evaluation.session.conversation import messages_of
from psychocounsel.evaluation.session.judged_sessions import judged_sessions
from psychocounsel.evaluation.session.session_answers_step import SESSION
from psychocounsel.evaluation.session.session_findings import session_findings
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.tables import Row

UNKNOWN = "unknown"


def session_cases(files: EvaluationDir, judge: str) -> Iterator[JudgedCase]:
    """Yield a case for each complete session in which the judge has answered about every reply with a text.

    The order is that of session_turns.parquet. The strata are pattern, kind, and the session's clearest disclosure and most
    urgent expected action; `unknown` if the set of clients does not define them.
    """
    path = reply_flow(load_rubric()).path  # the path through the questions is the same for every rubric
    for session in judged_sessions(files):
        turns = session.turns(judge, path) if session.is_complete else None
        if turns is not None:
            found = session_findings(turns)
            yield _case(session.rows, judge, {name: found[name] for name in CASE_FIGURES})


def _case(rows: list[Row], judge: str, findings: dict[str, float | None]) -> JudgedCase:
    first = rows[0]
    identity = "\0".join(str(first[name]) for name in ("speech", *SESSION))
    before, last = list(messages_of(rows))[-1]
    return JudgedCase(
        part="session",
        cluster=first["speech"],
        case=hashlib.sha256(identity.encode()).hexdigest()[:16],
        setting=first["setting"],
        judge=judge,
        findings=findings,
        strata={
            "pattern": first["pattern"],
            "kind": first["kind"] or UNKNOWN,
            "disclosure": _highest(rows, "disclosure", DISCLOSURES),
            "expected_action": _highest(rows, "expected_action", ACTIONS),
        },
        messages=(*before, {"role": "assistant", "content": last["text"] or ""}),
    )


def _highest(rows: Sequence[Row], column: str, order: Sequence[str]) -> str:
    known = [order.index(row[column]) for row in rows if row[column] is not None]
    return order[max(known)] if known else UNKNOWN
