"""Cases from a gate's adjudicate.csv: replies to speeches, and whole sessions."""

import hashlib
import re
from pathlib import Path

from psychocounsel.data.rows import Message
from psychocounsel.errors import UserError
from psychocounsel.evaluation.gate.adjudication_file import GIVEN, SPEAKERS, read_rows
from psychocounsel.experts.items.candidate import CaseCandidate
from psychocounsel.rundir.paths import EvaluationDir

_ROLES = {speaker: role for role, speaker in SPEAKERS.items()}
_TURN = re.compile(rf"(?:^|\n\n)({'|'.join(_ROLES)}):(?: |$|(?=\n))")


def is_gate(data: str) -> bool:
    """True if `data` is a folder with an adjudicate.csv."""
    return EvaluationDir(Path(data).expanduser()).adjudicate.is_file()


def adjudication_cases(data: str) -> list[CaseCandidate]:
    """Return each case of the file once, answered or not, ordered by item.

    Raises:
        UserError: naming the row, if the file is malformed, holds no case, or gives a case two texts.
    """
    path, found = EvaluationDir(Path(data).expanduser()).adjudicate, dict[str, CaseCandidate]()
    for row in read_rows(path):
        given = {name: row.cells[name] for name in GIVEN}
        if not given["case"]:
            raise UserError(f"{row.file}, row {row.number}, column case: is empty; give each case its id")
        known = found.setdefault(given["case"], _case(given))
        if known.given != given:
            raise UserError(
                f"{row.file}, row {row.number}: an earlier row of this case differs in {', '.join(GIVEN[1:])}"
            )
    if not found:
        raise UserError(f"{path}: no case to adjudicate")
    return sorted(found.values(), key=lambda each: each.item)


def turns_of(text: str) -> list[Message]:
    """Return the messages of a conversation from its text in the file. Words before the first speaker are the client's."""
    before, *turns = _TURN.split(text)
    pairs = zip(turns[::2], turns[1::2], strict=True)
    found: list[Message] = [{"role": _ROLES[speaker], "content": said.strip("\n")} for speaker, said in pairs]
    return [{"role": "user", "content": before}, *found] if before.strip() else found


def _case(given: dict[str, str]) -> CaseCandidate:
    return CaseCandidate(
        item=hashlib.sha256(given["case"].encode()).hexdigest()[:16],
        speech=given["case"],
        prompt=turns_of(given["messages"]),
        given=given,
        expected_action=given["expected_action"],
        strata=(given["part"], given["expected_action"]),
    )
