"""Blocks of `evaluation=session`: figures, the curve by turn, patterns and flags, as in the evaluation's summary."""

from collections.abc import Iterator

import pytest

from psychocounsel.blocks.cells import Titled
from psychocounsel.blocks.kinds import Block
from psychocounsel.blocks.terminal import terminal_lines
from psychocounsel.counsel.rubric import load_rubric
from psychocounsel.evaluation.flows.questions import severity_shares
from psychocounsel.evaluation.safety.questions import URGENCY, reply_flow
from psychocounsel.evaluation.session.cases import JudgedSession
from psychocounsel.evaluation.session.figures import (
    FlowFigures,
    FlowJudge,
    FlowSetting,
    SessionFigures,
    checks_quality,
    summarise_sessions,
)
from psychocounsel.evaluation.session.findings import SESSION_FIGURES
from psychocounsel.evaluation.session.show import FLOW_WARNINGS, session_blocks, session_summary
from tests.support.shown_blocks import chart, numbers, rows, said, tables, written

QUIET = {"recognises": "no", "asks": "no", "guides": "no", URGENCY: "none", "in_scope": "yes", "colludes": "no"}
QUIET |= {"gives_method": "no", "overpromises": "no", "claims_human": "no", "over_escalates": "no"}
SEES = QUIET | {"recognises": "yes", "asks": "yes", "guides": "yes", URGENCY: "same_day"}
FLOW = reply_flow(load_rubric())
TURNS = 3


def sessions() -> Iterator[JudgedSession]:
    """Yield sessions of four clients at risk from turn 2. `mine` sees it in three sessions and colludes once, `base` never."""
    for number in range(4):
        for setting in ("mine", "base"):
            about = {"speech": f"s{number}", "persona": f"client-{number}", "setting": setting, "seed": 0, "sample": 0}
            about |= {
                "pattern": "masked" if number % 2 else "secrecy",
                "kind": "self_harm",
                "text": "Words.",
                "ends": True,
            }
            turns = [
                {**about, "turn": turn, "expected_action": "same_day" if turn else "none"} for turn in range(TURNS)
            ]
            given = {turn: SEES if setting == "mine" and turn and number else QUIET for turn in range(TURNS)}
            if (number, setting) == (0, "mine"):
                given[2] = QUIET | {"colludes": "yes"}
            yield JudgedSession(turns, {"j": given})


@pytest.fixture(scope="module")
def figures() -> SessionFigures:
    numbers, judges = summarise_sessions(sessions(), [], ["j"], FLOW, "mine")
    return {
        "evaluation": "session",
        "model": "mine",
        "personas": "scripted",
        "sessions": numbers,
        "judges": judges,
        "flow": None,
        "steering_checks": checks_quality(FLOW),
        "warnings": ["warning: no clinician has reviewed the scripts"],
    }


@pytest.fixture(scope="module")
def found(figures: SessionFigures) -> list[Block]:
    return session_blocks([Titled("", figures)])


def test_warnings_and_flags_stand_first(found: list[Block]) -> None:
    assert said(found) == [
        "no clinician has reviewed the scripts",
        "mine: 1 replies flagged: colludes with harm; read them first",
    ]
    [flag] = rows(found, "sessions-flagged")
    assert (flag["contestant"], flag["flag"], flag["client"], flag["turn"]) == (
        "mine",
        "colludes with harm",
        "client-0",
        "3",
    )


def test_figures_are_those_of_the_summary(figures: SessionFigures, found: list[Block]) -> None:
    shown = {(row["contestant"], row["figure"]): row for row in rows(found, "sessions")}
    for name in ("mine", "base"):
        wrote = figures["judges"]["j"]["settings"][name]["figures"]
        for key, figure in SESSION_FIGURES.items():
            if key != "recognised_after" and wrote[key]["mean"] is not None:
                assert numbers(shown[name, figure.title]["share of sessions"]) == written(wrote[key], "mean"), key
    assert numbers(shown["mine", "risk never recognised"]["share of sessions"])[0] == 0.25
    turns, none = rows(found, "sessions-counted")
    assert (turns["contestant"], turns["clients"], numbers(turns["mean"])[0]) == ("mine", "3", 0)
    assert (none["contestant"], none["clients"], none["mean"]) == ("base", "0", None)
    missed = next(row for row in rows(found, "sessions-differences") if row["figure"] == "risk never recognised")
    assert numbers(missed["difference"])[0] == -0.75
    assert [row["clients"] for row in rows(found, "sessions-counts")] == ["4", "4"]


def test_the_curve_by_turn_has_intervals_and_no_turn_where_nothing_is_due(
    figures: SessionFigures, found: list[Block]
) -> None:
    drawn = {each.title: each for each in chart(found, "sessions-turns").curves}
    sees = drawn["mine: risk recognised when due"]
    assert (sees.x["turn"], sees.y) == ([2, 3], [0.75, 0.75])
    curve = figures["judges"]["j"]["settings"]["mine"]["curve"]
    assert sees.low == [curve[turn]["recognises"]["low"] for turn in (1, 2)]
    assert drawn["base: faulty replies"].y == [0, 1, 1]
    table = [row for row in rows(found, "sessions-turns") if row["contestant"] == "base"]
    assert [row["turn"] for row in table] == ["1", "2", "3"] and table[0]["risk recognised when due"] is None


def test_patterns_stand_in_a_table_and_a_chart(found: list[Block]) -> None:
    missed = {
        (row["contestant"], row["pattern"]): row["risk never recognised"] for row in rows(found, "sessions-by-pattern")
    }
    assert (missed["mine", "masked"].value, missed["mine", "secrecy"].value) == (0, 0.5)
    curve = chart(found, "sessions-failures-by-pattern").curves[0]
    assert (curve.title, curve.y) == ("mine: risk never recognised", [0, 0.5])


def test_a_flow_is_shown_by_dimension_with_its_warning(figures: SessionFigures, found: list[Block]) -> None:
    assert "sessions-dimensions" not in tables(found)
    shares = severity_shares({"s0": [{"Detects": "high"}], "s1": [{"Detects": "none"}]}, ["Detects"])
    setting: FlowSetting = {
        "sessions": 2,
        "personas": 2,
        "unjudged": 1,
        "not_relevant": 0,
        "dimensions": shares,
    }
    judge: FlowJudge = {"settings": {"mine": setting}, "outcomes": {"failed": 1}, "quotes": {"found": 3, "of": 4}}
    flow: FlowFigures = {"rubric": {"file": "rubric.tsv", "version": "1"}, "version": "1", "judges": {"j": judge}}
    shown = session_blocks([Titled("", {**figures, "flow": flow, "warnings": [*FLOW_WARNINGS]})])
    [row] = rows(shown, "sessions-dimensions")
    assert (row["dimension"], row["rubric"], row["high fault"].value) == ("Detects", "rubric.tsv", 0.5)
    [row] = rows(shown, "sessions-rubric")
    assert (row["clients"], row["sessions"], row["not judged"]) == ("2", "2", "1")
    [row] = rows(shown, "sessions-rubric-judges")
    assert (row["calls without an answer"], row["quotations found in the session"]) == ("1 failed", "3 of 4")
    assert any("has not been validated as a judge" in line for line in said(shown, "warning"))
    assert {row["judge"] for row in rows(found, "sessions-steering-judge-quality")} == {"checks that steer the clients"}


def test_the_terminal_shows_the_summary(figures: SessionFigures) -> None:
    lines = [" ".join(line.split()) for line in terminal_lines(session_summary([Titled("", figures)]))]
    assert "j mine 4 4 0 0" in lines and "j mine base risk never recognised 4" in " ".join(lines)
    assert lines[-2:] == [f"warning: {text}" for text in said(session_summary([Titled("", figures)]))]


def test_several_evaluations_share_the_tables(figures: SessionFigures, found: list[Block]) -> None:
    harmless: SessionFigures = {**figures, "warnings": ["warning: 2 of 8 sessions broke off"]}
    blocks = session_blocks([Titled("one", figures), Titled("two", harmless)])
    assert tables(blocks) == tables(found)
    assert "two: 2 of 8 sessions broke off" in said(blocks, "warning")
    assert "two: base: faulty replies" in [curve.title for curve in chart(blocks, "sessions-turns").curves]
