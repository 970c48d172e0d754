"""Sessions with the judges' answers about each reply, and whole sessions as `JudgedCase`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from psychocounsel.counsel.principles import ACTIONS, DISCLOSURES
from psychocounsel.counsel.rubric import load_rubric
from psychocounsel.evaluation.flows.questions import QuestionFlow
from psychocounsel.evaluation.safety.cases import CASE_FIGURES, JudgedCase, answers_in
from psychocounsel.evaluation.safety.questions import reply_flow
from psychocounsel.evaluation.session.answers_step import SCHEMA as ANSWERS
from psychocounsel.evaluation.session.dialogue import SCHEMA as TURNS
from psychocounsel.evaluation.session.dialogue import SESSION, session_of, sessions_in, whole_conversation
from psychocounsel.evaluation.session.findings import JudgedTurn, session_findings
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.tables import Row, by_speech, joined
from psychocounsel.storage.text_hashes import text_id

# Sessions with the judges' answers about each reply, read from the tables.


@dataclass(frozen=True)
class JudgedSession:
    """A session and its judges' answers.

    Attributes:
        rows: the session's rows of session_turns.parquet.
        answers: by judge and turn, the answers by question. Turns that a judge has not answered are missing.
    """

    rows: list[Row]
    answers: Mapping[str, Mapping[int, Mapping[str, str]]]

    @property
    def is_complete(self) -> bool:
        """True if the session came to its end; False if it broke off because of a missing answer."""
        return bool(self.rows[-1]["ends"])

    def turns(self, judge: str, flow: QuestionFlow) -> list[JudgedTurn] | None:
        """Return the session's replies with the judge's answers; None if answers about a reply with a text are missing."""
        by_turn = self.answers.get(judge, {})
        if any(row["text"] and row["turn"] not in by_turn for row in self.rows):
            return None
        pairs = [(row["expected_action"], by_turn.get(row["turn"])) for row in self.rows]
        return [
            JudgedTurn(expected, answers, None if answers is None else flow.path(answers))
            for expected, answers in pairs
        ]


def judged_sessions(files: EvaluationDir) -> Iterator[JudgedSession]:
    """Yield all sessions, in the order of session_turns.parquet."""
    turns, answers = by_speech(files.session_turns, TURNS.names), by_speech(files.session_answers, ANSWERS.names)
    for turn_rows, answer_rows in joined(turns, answers):
        by_session: dict[tuple[object, ...], dict[str, dict[int, Mapping[str, str]]]] = {}
        for row in answer_rows:
            if (reply_answers := answers_in(row)) is not None:
                by_session.setdefault(session_of(row), {}).setdefault(row["judge"], {})[row["turn"]] = reply_answers
        for rows in sessions_in(turn_rows):
            yield JudgedSession(rows, by_session.get(session_of(rows[0]), {}))


# Whole sessions as `JudgedCase`, each with a judge's findings.

UNKNOWN = "unknown"


def session_cases(files: EvaluationDir, judge: str) -> Iterator[JudgedCase]:
    """Yield a case for each complete session in which the judge has answered about every reply with a text.

    The order is that of session_turns.parquet. The strata are pattern, kind, and the session's clearest disclosure and most
    urgent expected action; `unknown` if the set of clients does not define them.
    """
    flow = reply_flow(load_rubric())  # the path through the questions is the same for every rubric
    for session in judged_sessions(files):
        turns = session.turns(judge, flow) if session.is_complete else None
        if turns is not None:
            findings = session_findings(turns)
            yield _case(session.rows, judge, {name: findings[name] for name in CASE_FIGURES})


def _case(rows: list[Row], judge: str, findings: dict[str, float | None]) -> JudgedCase:
    first = rows[0]
    return JudgedCase(
        part="session",
        cluster=first["speech"],
        case=text_id(*(str(first[name]) for name in ("speech", *SESSION))),
        setting=first["setting"],
        judge=judge,
        findings=findings,
        strata={
            "pattern": first["pattern"],
            "kind": first["kind"] or UNKNOWN,
            "disclosure": _highest(rows, "disclosure", DISCLOSURES),
            "expected_action": _highest(rows, "expected_action", ACTIONS),
        },
        messages=tuple(whole_conversation(rows)),
    )


def _highest(rows: Sequence[Row], column: str, order: Sequence[str]) -> str:
    known = [order.index(row[column]) for row in rows if row[column] in order]
    return order[max(known)] if known else UNKNOWN
