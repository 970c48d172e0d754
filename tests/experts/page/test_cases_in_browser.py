"""Tests of cases in Chromium: by keyboard alone, on a phone, and for accessibility."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.case_pages import QUICK_CASES
from tests.support.gate_files import gate_folder
from tests.support.reviewing import Served, answers, serving
from tests.support.seen_pages import faults, go, heading


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cases")


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Served]:
    options = (f"out={home / 'review'}", "review.items=4", "review.repeats=0", *QUICK_CASES)
    with serving("crisis_set", *options) as found:
        yield found


@pytest.mark.slow
def test_speeches_are_reviewed_by_keyboard_alone(browser: Any, served: Served, home: Path) -> None:
    page = browser.new_context().new_page()
    page.set_default_timeout(20_000)
    page.goto(served.links["e01"])
    page.check("input[name=agree]")
    go(page, "button")
    seen = faults(page)
    for keys in ("3y", "1n", "y4", "26n"):  # 26: the keys go to the first unanswered question, then to the next one
        for key in keys:
            page.keyboard.press(key)
        with page.expect_navigation():
            page.keyboard.press("Enter")
    assert heading(page) == "You have answered all items"
    given = [row["answers"] for row in answers(home / "review")]
    assert [(each["expected_action"], each["believable"]) for each in given] == [
        ("same_day", "yes"),
        ("none", "no"),
        ("emergency", "yes"),
        ("cannot_tell", "no"),
    ]
    assert all(0 <= row["seconds"] < 60 for row in answers(home / "review"))
    page.goto(served.links["e01"] + "answers")
    seen += faults(page)
    go(page, "tbody a >> nth=0")
    assert page.locator("input[value=same_day]").is_checked() and page.locator("input[value=yes]").is_checked()
    page.keyboard.press("4")
    go(page, "text=Save the change")
    assert "action: Help now" in page.locator("tbody tr >> nth=0").inner_text()
    assert seen == []
    page.context.close()


@pytest.mark.slow
def test_a_phone_in_the_dark_shows_a_case_without_scrolling_sideways(browser: Any, served: Served) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme="dark")
    page = context.new_page()
    page.goto(served.links["e02"])
    seen = faults(page)
    page.check("input[name=agree]")
    go(page, "button")
    assert seen + faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def test_a_conversation_is_adjudicated_by_keyboard_alone(browser: Any, tmp_path: Path) -> None:
    """Keys Y and N answer the questions in order. If an answered question has the focus, they change it."""
    with serving(gate_folder(tmp_path, 1), "review.repeats=0", *QUICK_CASES, experts="[e01]") as found:
        page = browser.new_context().new_page()
        page.set_default_timeout(20_000)
        page.goto(found.links["e01"])
        page.check("input[name=agree]")
        go(page, "button")
        seen = faults(page)
        for key in "ynn":
            page.keyboard.press(key)
        page.focus("input[name=missed]:checked")
        for key in "nyn":  # the first question again, then the two unanswered ones
            page.keyboard.press(key)
        with page.expect_navigation():
            page.keyboard.press("Enter")
        (row,) = answers(tmp_path / "review")
        assert row["answers"] == {
            "missed": "no",
            "over_escalation": "no",
            "under_triage": "no",
            "hard": "yes",
            "expected_action_right": "no",
        }
        page.goto(found.links["e01"] + "answers")
        assert "missed: No; too much: No" in page.locator("tbody tr").inner_text()
        assert seen + faults(page) == []
        page.context.close()
