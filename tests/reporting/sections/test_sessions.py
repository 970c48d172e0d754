"""Tests of the session section: figures, the curve by turn, patterns and flags, as in the evaluation's summary."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from psychocounsel.blocks.kinds import Section
from psychocounsel.counsel.rubric import load_rubric
from psychocounsel.evaluation.flows.questions import severity_shares
from psychocounsel.evaluation.safety.questions import URGENCY, reply_flow
from psychocounsel.evaluation.session.cases import JudgedSession
from psychocounsel.evaluation.session.figures_step import checks_quality, summarise_sessions
from psychocounsel.evaluation.session.findings import SESSION_FIGURES
from psychocounsel.reporting.material import EVALUATION, RunMaterial
from psychocounsel.reporting.sections.sessions import section
from tests.reporting.sections.shown import material, run_of
from tests.support.shown_blocks import chart, numbers, rows, said, tables, written

QUIET = {"recognises": "no", "asks": "no", "guides": "no", URGENCY: "none", "in_scope": "yes", "colludes": "no"}
QUIET |= {"gives_method": "no", "overpromises": "no", "claims_human": "no", "over_escalates": "no"}
SEES = QUIET | {"recognises": "yes", "asks": "yes", "guides": "yes", URGENCY: "same_day"}
PATH = reply_flow(load_rubric()).path
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
def run() -> RunMaterial:
    figures = {"evaluation": "session", "model": "mine", "flow": None, "steering_checks": checks_quality(PATH)}
    figures |= summarise_sessions(sessions(), [], ["j"], PATH, "mine")
    figures |= {"warnings": ["warning: no clinician has reviewed the scripts"]}
    return run_of(Path("/runs/session"), EVALUATION, "session", figures=figures)


@pytest.fixture(scope="module")
def found(run: RunMaterial) -> Section:
    return section(material(run))


def test_warnings_and_flags_stand_first(found: Section) -> None:
    assert said(found)[:2] == [
        "No clinician has reviewed the scripts.",
        "1 reply in sessions has a hard flag: read them first.",
    ]
    [flag] = rows(found, "sessions-flagged")
    assert (flag["contestant"], flag["flag"], flag["client"], flag["turn"]) == (
        "mine",
        "colludes with harm",
        "client-0",
        "3",
    )


def test_figures_are_those_of_the_summary(run: RunMaterial, found: Section) -> None:
    shown = {(row["contestant"], row["figure"]): row for row in rows(found, "sessions")}
    for name in ("mine", "base"):
        wrote = run.figures["judges"]["j"]["settings"][name]["figures"]
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


def test_the_curve_by_turn_has_intervals_and_no_turn_where_nothing_is_due(run: RunMaterial, found: Section) -> None:
    drawn = {each.title: each for each in chart(found, "sessions-turns").curves}
    sees = drawn["mine: risk recognised when due"]
    assert (sees.x["turn"], sees.y) == ([2, 3], [0.75, 0.75])
    curve = run.figures["judges"]["j"]["settings"]["mine"]["curve"]
    assert sees.low == [curve[turn]["recognises"]["low"] for turn in (1, 2)]
    assert drawn["base: faulty replies"].y == [0, 1, 1]
    table = [row for row in rows(found, "sessions-turns") if row["contestant"] == "base"]
    assert [row["turn"] for row in table] == ["1", "2", "3"] and table[0]["risk recognised when due"] is None


def test_patterns_stand_in_a_table_and_a_chart(found: Section) -> None:
    missed = {
        (row["contestant"], row["pattern"]): row["risk never recognised"] for row in rows(found, "sessions-by-pattern")
    }
    assert (missed["mine", "masked"].value, missed["mine", "secrecy"].value) == (0, 0.5)
    curve = chart(found, "sessions-failures-by-pattern").curves[0]
    assert (curve.title, curve.y) == ("mine: risk never recognised", [0, 0.5])


def test_a_flow_is_shown_by_dimension_with_its_warning(run: RunMaterial, found: Section) -> None:
    assert "sessions-dimensions" not in tables(found)
    shares = severity_shares({"s0": [{"Detects": "high"}], "s1": [{"Detects": "none"}]}, ["Detects"])
    flow = {"rubric": {"file": "rubric.tsv"}, "judges": {"j": {"settings": {"mine": {"dimensions": shares}}}}}
    shown = section(material(replace(run, figures={**run.figures, "flow": flow})))
    [row] = rows(shown, "sessions-dimensions")
    assert (row["dimension"], row["rubric"], row["high fault"].value) == ("Detects", "rubric.tsv", 0.5)
    assert any("this judge has not been validated" in line for line in said(shown, "warning"))
    assert {row["judge"] for row in rows(found, "sessions-steering-judge-quality")} == {"checks that steer the clients"}
