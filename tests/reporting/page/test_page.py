"""Tests of the page in a real browser: sorting, filters, escaped texts, no network requests, accessibility."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.blocks.kinds import Paragraph, Report, Section
from psychocounsel.reporting import page as page_room
from tests.reporting.page.made_blocks import HOSTILE, RATES, report, speeches


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    page_room.write(report(live=True), path)
    return path


@pytest.fixture
def opened(browser: Any, written: Path) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(written.as_uri())
    yield page
    page.close()


def drawn(page: Any) -> None:
    """Scroll to every chart, so that it is drawn."""
    for figure in page.locator(".chart:has(.plot)").all():
        figure.scroll_into_view_if_needed()
        figure.locator(".main-svg").first.wait_for()


def column(page: Any, number: int) -> list[str]:
    return [text.strip() for text in page.locator(f"#table-final tbody tr > :nth-child({number})").all_text_contents()]


def shares(cells: list[str]) -> list[float | None]:
    return [None if cell == "-" else float(cell.split()[0]) for cell in cells]


def test_a_heading_sorts_by_the_whole_value_with_missing_ones_last(opened: Any) -> None:
    there = sorted((rate for rate in RATES if rate is not None), reverse=True)
    percent = [round(100 * rate, 1) for rate in there]
    drawn(opened)  # a chart that is drawn during a click would move the heading away from it
    heading = opened.locator("#table-final th", has_text="win rate")
    assert heading.get_attribute("aria-sort") == "none" and column(opened, 4) == [str(10 * n) for n in range(1, 15)]
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending" and shares(column(opened, 2)) == [*percent, None]
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending" and shares(column(opened, 2)) == [*percent[::-1], None]
    other = opened.locator("#table-final th", has_text="GPU-minutes")
    other.get_by_role("button").click()
    assert column(opened, 4) == [str(10 * n) for n in range(14, 0, -1)], "as numbers, not as texts"
    assert heading.get_attribute("aria-sort") == "none" and other.get_attribute("aria-sort") == "descending"
    opened.locator("#table-final th", has_text="status").get_by_role("button").click()
    assert column(opened, 5) == ["failed: out of memory"] * 2 + ["finished"] * 12


def test_words_filter_the_rows_of_a_long_table(opened: Any) -> None:
    opened.locator("#table-final").get_by_label("Show rows with").fill("1E-6 finished")
    shown = [row.text_content() for row in opened.locator("#table-final tbody tr").all() if row.is_visible()]
    assert len(shown) == 3 and all("lr=1e-6" in row and "finished" in row for row in shown)
    assert opened.locator("#table-final .count").text_content() == "3 of 14 rows"
    assert opened.locator("#table-differs .filter").count() == 0, "two rows need no filter"


def test_every_text_stays_text(opened: Any) -> None:
    drawn(opened)
    opened.get_by_role("button", name="Show a speech about a crisis").click()
    assert opened.evaluate("window.broken") is None
    assert opened.locator("main img").count() == 0
    assert HOSTILE in opened.locator(".said.bad").text_content()
    assert opened.locator("#browser-replies .client .words").nth(1).text_content() == HOSTILE
    assert opened.locator("#table-differs tbody th").nth(1).text_content() == HOSTILE


def test_no_request_leaves_the_page_and_nothing_else_is_refused(browser: Any, written: Path) -> None:
    page = browser.new_page()
    asked, said = list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(written.as_uri())
    drawn(page)
    assert asked == [written.as_uri()]
    # plotly.js sets an inline style for maps, which the page's policy refuses.
    assert len([text for text in said if "Applying inline style" in text]) == len(said) <= 1
    refused = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => String(error))")
    assert "Failed to fetch" in refused
    page.close()


def test_a_script_that_is_not_ours_does_not_run(browser: Any, written: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.html"
    changed.write_text(written.read_text().replace("</body>", "<script>window.broken = 9</script></body>"))
    page = browser.new_page()
    page.goto(changed.as_uri())
    assert page.evaluate("window.broken") is None
    page.close()


def test_speeches_are_filtered_by_topic_and_risk(opened: Any) -> None:
    browser = opened.locator("#browser-replies")
    browser.get_by_label("Topic").select_option("family")
    assert browser.locator(".speech:visible").count() == 2
    browser.get_by_label("Risk").select_option("medium")
    assert browser.locator(".speech:visible").count() == 1
    assert browser.locator(".count").text_content() == "1 of 4 speeches"


def test_words_that_differ_from_the_first_reply_are_marked(opened: Any) -> None:
    first = opened.locator("#browser-replies .speech").first
    replies = first.locator(".reply")
    assert replies.nth(0).locator("mark").count() == 0 and "empathy" in replies.nth(0).text_content()
    assert replies.nth(1).locator("mark").all_text_contents() == [
        "tired, and alone with it. What",
        "good evening look like for you?",
    ]
    assert replies.nth(2).locator("mark").count() == 0 and "Almost no word" in replies.nth(2).text_content()
    underlined = "node => getComputedStyle(node).textDecorationLine"
    assert replies.nth(1).locator("mark").first.evaluate(underlined) == "underline", "not by colour alone"
    opened.get_by_label("Mark words").uncheck()
    assert replies.nth(1).locator("mark").first.evaluate(underlined) == "none"


def test_a_crisis_waits_behind_a_button_and_stays_out_of_print_until_then(opened: Any) -> None:
    crisis = next(each for each in speeches().speeches if each.crisis).speech
    opened.emulate_media(media="print")
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.get_by_text(crisis).count() == 0
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    opened.emulate_media(media="screen")
    opened.get_by_role("button", name="Show a speech about a crisis").press("Enter")
    assert opened.get_by_text(crisis).is_visible()
    assert opened.evaluate("document.activeElement.className") == "client", "the keyboard focus is there"


def test_paper_is_as_wide_as_the_page(opened: Any) -> None:
    """A wider page would be printed smaller by the browser."""
    opened.set_viewport_size({"width": 680, "height": 900})
    opened.emulate_media(media="print")
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.evaluate("document.documentElement.scrollWidth") == 680


def test_print_opens_speeches_and_draws_charts_on_white(opened: Any) -> None:
    opened.locator("#theme").select_option("dark")
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.locator(".speech:not([open]):not(.crisis)").count() == 0
    assert opened.locator(".chart:has(.plot):not([data-drawn])").count() == 0
    backs = {
        svg.evaluate("node => node.style.background") for svg in opened.locator(".plot .main-svg:first-child").all()
    }
    assert backs == {"rgb(255, 255, 255)"}
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.locator(".speech:not([open]):not(.crisis)").count() == 2
    assert opened.locator(":root").get_attribute("data-theme") == "dark"


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), pytest.param("dark", 375, marks=pytest.mark.slow)])
def test_axe_finds_no_fault(browser: Any, written: Path, theme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = browser.new_page(color_scheme=theme, viewport={"width": width, "height": 900})
    page.goto(written.as_uri())
    drawn(page)
    page.get_by_role("button", name="Show a speech about a crisis").click()
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    found = axe.Axe().run(page).response["violations"]
    assert [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found] == []
    page.close()


@pytest.mark.slow
def test_a_phone_scrolls_nothing_sideways_but_tables(browser: Any, written: Path) -> None:
    page = browser.new_page(viewport={"width": 375, "height": 700})
    page.goto(written.as_uri())
    drawn(page)
    page.get_by_role("button", name="Show a speech about a crisis").click()
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    box = page.locator("#table-final .scroll")
    assert box.evaluate("node => node.scrollWidth > node.clientWidth") and box.get_attribute("tabindex") == "0"
    page.close()


def test_the_page_begins_with_what_was_asked_and_leads_to_every_section(opened: Any) -> None:
    titles = ["The question", "Training curves", "Final table", "Replies side by side"]
    assert opened.get_by_role("heading", level=2).all_text_contents() == titles
    assert opened.get_by_role("navigation").get_by_role("link").all_text_contents() == titles
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.textContent") == "Skip to the report"
    header = opened.get_by_role("banner").text_content()
    assert "Still running" in header and "Confidential" in header


def test_a_finished_report_of_words_has_neither_marks_nor_plotly(tmp_path: Path) -> None:
    short = Report("Words", ["runs/1"], [Section("question", "Question", [Paragraph("One run.")])])
    page_room.write(short, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert (
        "Still running" not in text
        and "Confidential" not in text
        and os.path.getsize(tmp_path / "report.html") < 60_000
    )
