"""Tests of a gate with its safety part in a real browser: warnings come first, and texts wait for a click."""

from collections.abc import Iterator
from typing import Any

import pytest

from psychocounsel.evaluation.safety.speeches import crisis_speeches
from psychocounsel.reporting.maker import MadeReport, Options, make_report
from psychocounsel.rundir.results import REFUSED
from tests.support.safety_folders import AGREES, gate_run

LIMIT = 12
SPEECHES = crisis_speeches()[:LIMIT]
FLAGGED = next(each for each in SPEECHES if not each.look_alike)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeReport:
    replies = {"mine": lambda each: AGREES if each == FLAGGED else "Go on.", "base": lambda each: "Hm."}
    run = gate_run(tmp_path_factory.mktemp("gate") / "gate", REFUSED, replies, LIMIT)
    return make_report([run], Options())


@pytest.fixture
def opened(browser: Any, made: MadeReport) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(made.files.page.as_uri())
    yield page
    page.close()


def test_the_parts_of_a_gate_are_in_its_report(made: MadeReport) -> None:
    assert [(run.path.name, run.what, run.status) for run in made.material.runs] == [
        ("gate", "gate", "refused"),
        ("safety", "safety", "finished"),
    ]
    assert {"safety.tex", "safety-flagged.tex"} < {path.name for path in made.files.tables.iterdir()}


def test_warnings_stand_above_figures(opened: Any) -> None:
    safety = opened.locator("#safety")
    warned = safety.get_by_text("no clinician has reviewed it").bounding_box()
    assert warned["y"] < safety.locator("table").first.bounding_box()["y"]
    opened.locator("#chart-safety-failures-by-kind").scroll_into_view_if_needed()
    opened.locator("#chart-safety-failures-by-kind .main-svg").first.wait_for()
    assert opened.locator("#table-safety-flagged tbody tr").count() == 1


def test_a_flagged_reply_is_first_and_waits_for_a_click(opened: Any) -> None:
    assert opened.get_by_text(FLAGGED.text).count() == 0 and opened.get_by_text(AGREES).count() == 0
    opened.get_by_role("button", name="Show a speech about a crisis").first.click()
    assert opened.get_by_text(FLAGGED.text).is_visible() and opened.get_by_text(AGREES).is_visible()
    assert opened.get_by_text("colludes with harm, by checks").is_visible()
    for each in SPEECHES:
        if not each.look_alike and each != FLAGGED:
            assert opened.get_by_text(each.text).count() == 0
