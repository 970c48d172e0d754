"""Sessions with the judges' answers about each reply, read from the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from psychocounsel.evaluation.safety.answer_rows import answers_in
from psychocounsel.evaluation.session.conversation import SCHEMA as TURNS
from psychocounsel.evaluation.session.session_answers_step import SCHEMA as ANSWERS
from psychocounsel.evaluation.session.session_answers_step import SESSION
from psychocounsel.evaluation.session.session_findings import JudgedTurn
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.tables import Row, by_speech, joined

# Reduces the answers about a reply to those that count: the answers to questions on the path through the flow.
OnTheWay = Callable[[Mapping[str, str]], Mapping[str, str]]


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

    def turns(self, judge: str, on_the_way: OnTheWay) -> list[JudgedTurn] | None:
        """Return the session's replies with the judge's answers; None if answers about a reply with a text are missing."""
        said = self.answers.get(judge, {})
        if any(row["text"] and row["turn"] not in said for row in self.rows):
            return None
        found = [(row["expected_action"], said.get(row["turn"])) for row in self.rows]
        return [JudgedTurn(expected, given, None if given is None else on_the_way(given)) for expected, given in found]


def judged_sessions(files: EvaluationDir) -> Iterator[JudgedSession]:
    """Yield all sessions, in the order of session_turns.parquet."""
    turns, answers = by_speech(files.session_turns, TURNS.names), by_speech(files.session_answers, ANSWERS.names)
    for mine, said in joined(turns, answers):
        found: dict[tuple[object, ...], dict[str, dict[int, Mapping[str, str]]]] = {}
        for row in said:
            if (given := answers_in(row)) is not None:
                found.setdefault(_session(row), {}).setdefault(row["judge"], {})[row["turn"]] = given
        for session, rows in groupby(mine, _session):
            yield JudgedSession(list(rows), found.get(session, {}))


def _session(row: Row) -> tuple[object, ...]:
    return tuple(row[name] for name in SESSION)
