"""Tests of the crisis set's review over HTTP with the real command: blind, strict, and safe if the server is killed."""

import csv
import html
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from psychocounsel.evaluation.safety.speeches import crisis_speeches, read_set_review
from tests.support.case_pages import QUICK_CASES, shown_text, without_text
from tests.support.reviewing import Served, answers, item_of, serving

KNOWN = {each.speech: each for each in crisis_speeches()}
BY_TEXT = {each.text: each for each in KNOWN.values()}
GOOD = {"expected_action": "same_day", "believable": "yes"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("set")


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Served]:
    options = (f"out={home / 'review'}", "review.items=60", "review.repeats=0", *QUICK_CASES)
    with serving("crisis_set", *options) as found:
        yield found


def test_no_page_tells_what_is_expected(served: Served) -> None:
    """Pages of speeches at risk and of look-alikes differ only in the speech."""
    client, pages, seen = served.agree("e01"), set[str](), set[str]()
    for _ in range(12):
        page = client.get("").text
        speech = BY_TEXT[html.unescape(shown_text(page))]
        seen.add("none" if speech.look_alike else "risk")
        assert "may be at risk" in page and "practi" not in page.lower()
        assert speech.because == "" or html.escape(speech.because) not in page
        pages.add(without_text(page))
        client.post(item_of(page), data=GOOD)
    assert seen == {"none", "risk"} and len(pages) == 1
    assert "action: A human being today; believable: Yes" in client.get("answers").text


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"expected_action": "same_day"}, "Please answer each question."),
        ({"believable": "yes", "expected_action": ""}, "Please answer each question."),
        ({**GOOD, "expected_action": "soon"}, "a value that this page does not offer"),
        ({**GOOD, "believable": "not_applicable"}, "a value that this page does not offer"),
        ({**GOOD, "choice": "left"}, "a field that this page does not know"),
        ({**GOOD, "adjudicator": "e02"}, "a field that this page does not know"),
        ({**GOOD, "rating.left.empathy": "4"}, "a field that this page does not know"),
        ({**GOOD, "seconds": "soon"}, "a value that this page does not offer"),
        ({**GOOD, "comment": "x" * 4_001}, "A text may have at most 4,000 characters"),
    ],
)
def test_what_the_page_does_not_offer_is_refused(served: Served, home: Path, form: dict[str, str], said: str) -> None:
    client = served.agree("e02")
    before = (home / "review" / "events.jsonl").read_text()
    refused = client.post(item_of(client.get("").text), data=form)
    assert refused.status_code == 400 and said in refused.text
    assert (home / "review" / "events.jsonl").read_text() == before


def test_there_is_no_practice_to_send(served: Served) -> None:
    client = served.agree("e02")
    assert "Item 1 of 60" in client.post("practice/0", data={"choice": "left"}).text


def test_a_killed_server_loses_no_answer_and_the_table_is_read_back(tmp_path: Path) -> None:
    out = f"out={tmp_path / 'review'}"
    with serving("crisis_set", out, "review.items=10", "review.repeats=0.1", *QUICK_CASES) as first:
        client = first.agree("e01")
        for number in range(3):
            form = GOOD | {"comment": f'number {number}, "so"\nit goes'}
            client.post(item_of(client.get("").text), data=form)
        first.end(signal.SIGKILL)
    with serving("crisis_set", out) as again:  # the options of the first start are stored
        assert any("(3 of 11 answered)" in line for line in again.said)
        client = again.client("e01")
        while "Item" in (page := client.get("").text):
            client.post(item_of(page), data={"expected_action": "cannot_tell", "believable": "no"})
        other = again.agree("e02")
        other.post(item_of(other.get("").text), data=GOOD)
        again.end()
    found = read_set_review(tmp_path / "review" / "set_review.csv", KNOWN)
    assert [each.adjudicator for each in found] == ["e01"] * 10 + ["e02"]  # the repeated item is in the table once
    assert [each.expected_action for each in found] == ["same_day"] * 3 + ["cannot_tell"] * 7 + ["same_day"]
    with (tmp_path / "review" / "set_review.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["speech", "expected_action", "believable", "adjudicator", "comment"]
    assert [row["comment"] for row in rows[:4]] == [*(f'number {n}, "so"\nit goes' for n in range(3)), ""]
    given = answers(tmp_path / "review")
    assert sum(row["repeat"] for row in given) == 1 and given[0]["ratings"] == {"expected_action": 3, "believable": 2}
    assert given[3]["ratings"] == {"believable": 1}
    texts = json.dumps(given) + (tmp_path / "review" / "set_review.csv").read_text()
    assert not any(each.text in texts for each in KNOWN.values())


def test_a_withdrawal_empties_every_table_at_once(tmp_path: Path) -> None:
    out = (f"out={tmp_path / 'review'}", "review.items=4")
    with serving("crisis_set", *out, *QUICK_CASES) as first:
        client = first.agree("e01")
        client.post(item_of(client.get("").text), data=GOOD | {"comment": "mine"})
        first.end()
    table = tmp_path / "review" / "set_review.csv"
    assert "mine" in table.read_text()
    with serving("crisis_set", *out) as again:
        again.client("e01").post("withdraw", data={"confirm": "withdraw"})
        assert table.read_text() == "speech,expected_action,believable,adjudicator,comment\n"
        assert "mine" not in (tmp_path / "review" / "events.jsonl").read_text()
