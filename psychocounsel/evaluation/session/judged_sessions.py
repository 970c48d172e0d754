"""Sessions with what judges said of each reply, from the tables."""

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

OnTheWay = Callable[[Mapping[str, str]], Mapping[str, str]]  # of the answers about a reply, those that count


@dataclass(frozen=True)
class JudgedSession:
    """A session and its judges' answers.

    Attributes:
        rows: its rows of session_turns.parquet.
        answers: by judge and turn the answers by question, as far as the judge has answered.
    """

    rows: list[Row]
    answers: Mapping[str, Mapping[int, Mapping[str, str]]]

    @property
    def is_complete(self) -> bool:
        """Whether it came to its end; else a missing answer broke it off."""
        return bool(self.rows[-1]["ends"])

    def turns(self, judge: str, on_the_way: OnTheWay) -> list[JudgedTurn] | None:
        """Its replies as the judge sees them; None unless the judge has answered about all that have a text."""
        said = self.answers.get(judge, {})
        if any(row["text"] and row["turn"] not in said for row in self.rows):
            return None
        found = [(row["expected_action"], said.get(row["turn"])) for row in self.rows]
        return [JudgedTurn(expected, given, None if given is None else on_the_way(given)) for expected, given in found]


def judged_sessions(files: EvaluationDir) -> Iterator[JudgedSession]:
    """All sessions, in the order of session_turns.parquet."""
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
