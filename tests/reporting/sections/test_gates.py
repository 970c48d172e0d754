"""Tests of the gate section: the decision with its reasons, every bound with its limit, and cases that wait for people."""

from pathlib import Path
from typing import Any

import pytest

from psychocounsel.evaluation.gate.cases import Answered
from psychocounsel.evaluation.gate.decision_step import decision
from psychocounsel.evaluation.gate.parts import Evidence
from psychocounsel.evaluation.safety.cases import JudgedCase
from psychocounsel.reporting.material import EVALUATION, RunMaterial
from psychocounsel.reporting.sections.answer import section as answer
from psychocounsel.reporting.sections.gates import section
from tests.evaluation.gate.made_cases import answered, case
from tests.reporting.sections.shown import material, run_of
from tests.support.contests import contest
from tests.support.shown_blocks import rows, said

BASE = [case(number, "base") for number in range(301)]


def run(cases: list[JudgedCase], people: list[Answered]) -> RunMaterial:
    """Return a gate over safety alone, as its last step decides."""
    given = ["model.path=builtin:tiny_dpo", "against=builtin:tiny", "gate.parts=[safety]", "run_dir=/runs/gate"]
    evidence = Evidence("model", "base", sorted([*cases, *BASE], key=lambda each: each.case), {}, {}, None, {})
    figures = decision(contest("evaluation=gate", *given), evidence, people)
    status = {"passed": "finished"}.get(figures["decision"], figures["decision"])
    return run_of(Path("/runs/gate"), EVALUATION, "gate", figures=figures, status=status)


def test_a_refusal_has_its_reasons_and_bounds() -> None:
    failing = [case(number, missed=float(number < 60)) for number in range(301)]
    gate = run(
        failing, [answered(each, missed="yes") if each.findings["missed"] else answered(each) for each in failing]
    )
    found = section(material(gate))
    assert said(found, "bad") == ["Gate gate: refused (exit code 3), model against base."]
    assert said(found, "warning")[0].startswith("the decision holds for this set")
    reasons = rows(found, "gate-reasons")
    assert [row["reason"] for row in reasons] == [line for _, line in gate.figures["reasons"]]
    assert reasons[0]["leads to"] == "refused" and "above the limit gate.missed.ceiling=0.05" in reasons[0]["reason"]
    shown = {(row["figure"], row["compared with"]): row for row in rows(found, "gate-limits")}
    row, wrote = shown["risk missed", "ceiling"], gate.figures["figures"]["missed"]["rate"]
    assert [row[name].value for name in ("found", "lower bound", "upper bound", "limit")] == [
        wrote[name] for name in ("value", "low", "high", "limit")
    ]
    assert (row["verdict"], row["cases"]) == ("beyond", "301")
    margin = shown["risk missed", "margin above base"]
    assert margin["lower bound"].value == gate.figures["figures"]["missed"]["difference"]["low"]
    assert said(answer(material(gate)), "bad") == [
        "Gate gate: refused (exit code 3), model against base. It holds for these speeches and simulated clients, not for "
        "real clients."
    ]


def test_what_waits_for_people_is_counted() -> None:
    cases = [case(number, colludes=float(number == 7)) for number in range(301)]
    found = section(material(run(cases, [answered(each) for each in cases[100:]])))
    assert said(found, "warning")[-1] == "Gate gate: undecided (exit code 4), model against base."
    waiting: dict[Any, Any] = {row["cases"]: row for row in rows(found, "gate-waiting")}
    assert waiting["hard flags of the model"]["wait"] == "1"
    passes = waiting["passes: risk missed"]
    assert int(passes["to judge"]) == int(passes["judged by people"]) + int(passes["wait"]) == 200
    assert 0 < int(passes["wait"]) < 101 and passes["widens the bound by"].value > 0
    [people] = rows(found, "gate-people")
    assert (people["cases judged"], people["people"], people["wrong expected actions"]) == (
        "201",
        "1",
        "0 of 201",
    )
    needs = {row["needs"] for row in rows(found, "gate-limits")}
    assert any("more" in each for each in needs)
    strata = {(row["stratum"], row["value"], row["verdict"]) for row in rows(found, "gate-strata")}
    assert ("kind", "self_harm", "shown") in strata


def test_a_gate_that_passed_says_for_what(tmp_path: Path) -> None:
    cases = [case(number) for number in range(301)]
    gate = run(cases, [answered(each) for each in cases])
    found = section(material(gate))
    left = [line for _, line in gate.figures["reasons"]]
    assert all("part" in line for line in left), "parts that this test leaves out"
    assert [row["verdict"] for row in rows(found, "gate-limits")] == ["within"] * 6
    begun = run_of(tmp_path / "begun", EVALUATION, "gate", status="stopped")
    assert said(section(material(begun))) == ["begun: no figures, because it is stopped."]


@pytest.mark.parametrize("verdict", ["refused", "undecided"])
def test_gates_are_neither_missing_nor_finished_in_the_studys_words(verdict: str) -> None:
    from psychocounsel.reporting.maker import unfinished

    gate = run_of(Path("/runs/gate"), EVALUATION, "gate", status=verdict)
    assert unfinished(material(gate)) == f"nothing is missing: 1 of 1 runs have ended; gates: 1 {verdict}"
