"""Tests of adjudicate.csv's cases as items: the conversation is the gate's, and the contestant is hidden."""

from pathlib import Path

import pytest

from psychocounsel.errors import UserError
from psychocounsel.evaluation.gate.adjudicate_step import COLUMNS, new_row, plain_text, write_rows
from psychocounsel.experts.items.gate_cases import GateKind, _case, turns_of
from psychocounsel.rundir.paths import EvaluationDir
from tests.support.gate_files import SESSION, gate_cases_of, gate_folder

KIND = GateKind()


def test_a_conversation_is_split_as_the_gate_wrote_it() -> None:
    for case in gate_cases_of(3).values():
        assert turns_of(plain_text(case)) == list(case.messages)
        assert turns_of(plain_text(case).strip()) == list(case.messages)  # the gate's reader strips cells likewise
    assert turns_of("no speaker") == [{"role": "user", "content": "no speaker"}]


def test_every_case_is_an_item_once(tmp_path: Path) -> None:
    folder, cases = gate_folder(tmp_path), gate_cases_of(3)
    assert KIND.holds(str(folder)) and not KIND.holds(str(folder / "none"))
    found = KIND.candidates(str(folder))
    assert {each.given["case"]: each.prompt for each in found} == {
        name: list(case.messages) for name, case in cases.items()
    }
    given = {"part": "safety", "expected_action": "none"}
    said = ("CLIENT: I fell.\n\nCOUNSELLOR: When?", "CLIENT: I fell.\n\nCOUNSELLOR: Oh.", "CLIENT: No.")
    first, second, other = (
        _case({**given, "case": f"c{number}", "messages": text}) for number, text in enumerate(said)
    )
    assert first.speech == second.speech != other.speech, "replies to one speech are one cluster"
    session = next(each for each in found if each.strata == ("session", "monitor"))
    assert session.prompt == list(SESSION) and session.expected_action == "monitor" and session.crisis
    assert all("secret" not in str(each) for each in found)
    twice = [new_row(case) for case in cases.values()] * 2  # a second person fills these rows in by hand
    write_rows(EvaluationDir(folder).adjudicate, twice)
    assert KIND.candidates(str(folder)) == found


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no case to adjudicate"),
        (
            ["a,safety,CLIENT: x,none,,,,,,,", "a,safety,CLIENT: y,none,,,,,,,"],
            "row 3: an earlier row of this case differs in part, messages",
        ),
        ([",safety,CLIENT: x,none,,,,,,,"], "row 2, column case: is empty"),
        (["a,safety"], "row 2: has 2 cells instead of 11"),
    ],
)
def test_a_malformed_file_is_refused_by_row(tmp_path: Path, lines: list[str], message: str) -> None:
    EvaluationDir(tmp_path).adjudicate.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    with pytest.raises(UserError, match=message):
        KIND.candidates(str(tmp_path))
