"""Tests of the page in Chromium: two experts at once, by keyboard alone, on a phone, without scripts, accessibility."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.experts.agreement.answers import AnswerFormat, read_answers
from psychocounsel.storage.files import PACKAGE
from tests.support.reviewing import QUICK, Served, answers, pairs_file, serving
from tests.support.seen_pages import faults, go, heading


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("review")


def start(page: Any, link: str) -> None:
    """Agree, then practise until items follow, choosing A or B in turn."""
    page.goto(link)
    page.check("input[name=agree]")
    go(page, "button")
    for turn in range(18):
        if not heading(page).startswith("Practice"):
            return
        page.keyboard.press("ab"[turn // 2 % 2])
        go(page, "button")
        go(page, "main a.button")


@pytest.fixture(scope="module")
def last_headings(browser: Any, home: Path) -> Iterator[tuple[Served, dict[str, str]]]:
    """Two experts answer all items at once by keyboard: e01 prefers the good reply, e02 the bad one."""
    options = (
        *QUICK[1:],
        "review.practice=2",
        "review.practice_share=0.5",
        "review.practice_rounds=9",
        "review.repeats=0",
    )
    file = pairs_file(home, 8, at_risk=3)
    with serving(file, *options, "review.contact.name=Dr Kim", "review.safety=all") as found:
        pages = {}
        for expert in ("e01", "e02"):
            page = browser.new_context().new_page()
            page.set_default_timeout(20_000)
            start(page, found.links[expert])
            pages[expert] = page
        for _ in range(8):
            for expert, page in pages.items():
                wanted = "Good" if expert == "e01" else "Bad"
                left = page.locator("section[aria-labelledby=reply-left] p.text").inner_text()
                page.keyboard.press("a" if left.startswith(wanted) else "b")
                with page.expect_navigation():
                    page.keyboard.press("Enter")
        headings = {expert: heading(page) for expert, page in pages.items()}
        for page in pages.values():
            page.context.close()
        yield found, headings


@pytest.fixture
def served(last_headings: tuple[Served, dict[str, str]]) -> Served:
    return last_headings[0]


@pytest.mark.slow
def test_two_experts_at_once(last_headings: tuple[Served, dict[str, str]], home: Path) -> None:
    assert set(last_headings[1].values()) == {"You have answered all items"}
    found = read_answers(
        [(str(at), row) for at, row in enumerate(answers(home / "review")) if not row["changed"]], AnswerFormat()
    )
    assert len(found) == 16
    assert all((each.choice == each.label) == (each.rater == "e01") for each in found)
    assert all(each.seconds is not None and 0 < each.seconds < 60 for each in found)


def test_an_answer_with_ratings_is_changed_later(browser: Any, served: Served, home: Path) -> None:
    page = browser.new_context().new_page()
    page.goto(served.links["e01"] + "answers")
    go(page, "tbody a >> nth=0")
    assert "change your answer" in heading(page)
    page.keyboard.press("h")
    page.select_option("select[name='rating.left.empathy']", "4")
    page.select_option("select[name='safety.right.asks']", "no")
    page.fill("#comment", "both blame the client")
    go(page, "text=Save the change")
    assert "Both are harmful" in page.locator("tbody tr >> nth=0").inner_text()
    row = next(row for row in answers(home / "review") if row["changed"])
    assert (row["choice"], row["comment"]) == ("harmful", "both blame the client")
    assert (row["ratings"], row["safety"]) == ({"left": {"empathy": 4}}, {"right": {"asks": "no"}})
    go(page, "tbody a >> nth=0")
    assert page.locator("select[name='rating.left.empathy']").input_value() == "4"
    assert page.locator("#comment").input_value() == "both blame the client"
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_axe_finds_no_fault_on_any_page(browser: Any, served: Served, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(served.links["e01"])
    found = {"done": faults(page)}
    for name in ("answers", "stop", "report", "withdraw"):
        page.goto(served.links["e01"] + name)
        found[name] = faults(page)
    page.goto(served.links["e01"] + "answers")
    go(page, "tbody a >> nth=0")
    found["item"] = faults(page)
    assert {name: each for name, each in found.items() if each} == {}
    context.close()


@pytest.mark.slow
def test_axe_finds_no_fault_on_the_way_to_the_first_item(browser: Any, tmp_path: Path) -> None:
    options = (
        "review.practice=1",
        "review.crisis_in_a_row=1",
        "review.practice_share=0.1",
        "review.practice_rounds=10",
    )
    with serving(pairs_file(tmp_path, 4, at_risk=4), *options) as found:
        page = browser.new_context().new_page()
        page.goto(found.links["e01"])
        seen = {"consent": faults(page)}
        page.check("input[name=agree]")
        go(page, "button")
        while heading(page).startswith("Practice"):
            seen["practice"] = faults(page)
            page.keyboard.press("a")
            go(page, "button")
            seen["feedback"] = faults(page)
            go(page, "main a.button")
        page.keyboard.press("t")
        go(page, "main button")
        assert heading(page) == "Please take a break"
        seen["pause"] = faults(page)
        assert {name: each for name, each in seen.items() if each} == {}
        page.context.close()


def test_a_phone_shows_everything_without_scrolling_sideways(browser: Any, served: Served) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740})
    page = context.new_page()
    for name in ("", "answers", "report", "stop"):
        page.goto(served.links["e01"] + name)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.goto(served.links["e01"] + "answers")
    go(page, "tbody a >> nth=0")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    boxes = [page.locator(f"section[aria-labelledby=reply-{side}]").bounding_box() for side in ("left", "right")]
    assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"]
    context.close()


@pytest.mark.parametrize(
    ("sheet", "kind"), [("experts/page/static/page.css", "text"), ("reporting/page/assets/page.css", "words")]
)
def test_a_text_in_hebrew_begins_at_the_right_and_one_in_english_at_the_left(
    browser: Any, sheet: str, kind: str
) -> None:
    page = browser.new_context().new_page()
    page.set_content(
        f"<style>{(PACKAGE / sheet).read_text()}</style>"
        f'<p class="{kind}">\u05e2\u05e6\u05d5\u05d1.</p><p class="{kind}">I am sad.</p>'
    )
    first_letter = """text => {
        const range = document.createRange(), box = text.getBoundingClientRect();
        range.setStart(text.firstChild, 0);
        range.setEnd(text.firstChild, 1);
        const letter = range.getBoundingClientRect();
        return [letter.left - box.left, box.right - letter.right];
    }"""
    (hebrew, english) = (page.locator("p").nth(number).evaluate(first_letter) for number in (0, 1))
    assert hebrew[1] == pytest.approx(0, abs=1) and english[0] == pytest.approx(0, abs=1)
    page.context.close()


def test_the_page_works_without_scripts_and_asks_nobody_else(browser: Any, served: Served, home: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    asked = set[str]()
    page.on("request", lambda request: asked.add(request.url.split("/")[2]))
    page.goto(served.links["e02"] + "answers")
    go(page, "tbody a >> nth=1")
    page.check("input[value=tie]")
    go(page, "text=Save the change")
    changed = [row for row in answers(home / "review") if row["rater"] == "e02" and row["changed"]]
    assert [row["choice"] for row in changed] == ["tie"]
    assert len(asked) == 1
    context.close()


def test_a_report_of_a_person_at_risk_names_the_item(browser: Any, served: Served, home: Path) -> None:
    page = browser.new_context().new_page()
    page.goto(served.links["e02"] + "answers")
    go(page, "tbody a >> nth=0")
    go(page, "text=This may be a real person at risk")
    assert (
        "Dr Kim" in page.locator("main").inner_text()
        and "Please contact them now." in page.locator("main").inner_text()
    )
    page.fill("#said", "she names her street")
    go(page, "text=Send the report")
    assert "Your report is saved" in page.locator("main").inner_text()
    logged = (home / "review" / "adverse_events.jsonl").read_text()
    assert "she names her street" in logged and answers(home / "review")[8]["item"] in logged
    page.context.close()


def test_withdrawal_in_the_browser(browser: Any, served: Served, home: Path) -> None:
    page = browser.new_context().new_page()
    page.goto(served.links["e02"] + "stop")
    go(page, "text=Withdraw and delete my answers")
    page.check("input[name=confirm]")
    go(page, "button.danger")
    assert heading(page) == "You have withdrawn"
    assert {row["rater"] for row in answers(home / "review")} == {"e01"}
    page.context.close()
