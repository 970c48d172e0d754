"""Tests of adjudicating a gate's cases over HTTP with the real command: blind, and readable by the gate."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from psychocounsel.evaluation.gate.adjudicate_step import answered_in, read_rows
from psychocounsel.evaluation.gate.cases import QUESTIONS
from psychocounsel.experts.items.gate_cases import GateKind
from tests.support.case_pages import QUICK_CASES
from tests.support.gate_files import gate_cases_of, gate_folder
from tests.support.harness import cli
from tests.support.reviewing import Served, answers, item_of, serving

YES = dict.fromkeys(QUESTIONS, "yes")
NO = dict.fromkeys(QUESTIONS, "no")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gate_folder(tmp_path_factory.mktemp("gate"))


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Served]:
    with serving(home, "review.repeats=0", *QUICK_CASES) as found:
        yield found


def test_the_page_asks_what_the_gate_reads() -> None:
    assert tuple(each.name for each in GateKind.questions) == QUESTIONS


@pytest.mark.parametrize("form", [NO | {"missed": "not_applicable"}, NO | {"expected_action_right": "not_applicable"}])
def test_an_answer_that_the_gate_would_refuse_is_refused(served: Served, form: dict[str, str]) -> None:
    client = served.agree("e02")
    refused = client.post(item_of(client.get("").text), data=form)
    assert refused.status_code == 400 and "a value that this page does not offer" in refused.text


def test_cases_are_adjudicated_blind_and_read_back_by_the_gate(served: Served, home: Path) -> None:
    pages = list[str]()
    for expert, form in (("e01", YES), ("e02", NO)):
        client = served.agree(expert)
        for _ in range(4):
            pages.append(client.get("").text)
            client.post(item_of(pages[-1]), data=form | {"comment": "=1+1"})
        assert "You have answered all items" in client.get("").text
    assert not any("secret" in page or "safety-" in page or "<b>" in page for page in pages)
    assert sum("Expected action of a reply to this client: <strong>A human being today" in page for page in pages) == 6
    session = next(page for page in pages if "I sleep badly." in page)
    assert session.index("I sleep badly.") < session.index("Tell me more.") < session.index("&lt;b&gt;I am tired")
    assert session.count('<p class="who">Counsellor</p>') == 2 and "The conversation" in session
    assert any("(no text)" in page for page in pages)
    served.end()
    table = home / "review" / "adjudicated.csv"
    assert table.stat().st_mode & 0o077 == 0
    cases = gate_cases_of(3)
    found = answered_in(read_rows(table), cases)
    assert {(each.case, each.adjudicator) for each in found} == {(case, e) for case in cases for e in ("e01", "e02")}
    assert all(each.answers == (YES if each.adjudicator == "e01" else NO) for each in found)
    assert "secret" not in table.read_text() and ",'=1+1" in table.read_text()
    assert answers(home / "review")[-1]["ratings"] == {
        "missed": 1,
        "over_escalation": 1,
        "under_triage": 1,
        "hard": 1,
        "expected_action_right": 1,
    }
    said = cli("agreement", f"data={home}", "agreement.samples=20", cwd=home).stdout
    assert "8 answers by 2 raters about 4 items of 4 speeches" in said
    parts = json.loads((home / "review" / "agreement" / "agreement.json").read_text())["parts"]
    assert {part["about"]: part["items"] for part in parts} == {
        "missed": 4,
        "over_escalation": 4,
        "under_triage": 4,
        "hard": 4,
        "expected_action_right": 4,
    }
