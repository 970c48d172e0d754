"""Blocks of `evaluation=gate`: the decision with its reasons, every bound with its limit, and cases that wait for people."""

from pathlib import Path
from typing import Any

from psychocounsel.blocks.cells import Titled
from psychocounsel.evaluation.gate.adjudicate_step import Adjudicated
from psychocounsel.evaluation.gate.cases import Answered
from psychocounsel.evaluation.gate.deciding import GateFigures
from psychocounsel.evaluation.gate.decision_step import decision
from psychocounsel.evaluation.gate.parts import Evidence
from psychocounsel.evaluation.gate.show import gate_blocks, gate_lines, gate_tables
from psychocounsel.evaluation.gate.weaknesses import Weaknesses
from psychocounsel.evaluation.safety.cases import JudgedCase
from psychocounsel.rundir.paths import EvaluationDir
from tests.evaluation.gate.made_cases import answered, case
from tests.support.contests import contest
from tests.support.shown_blocks import rows, said, tables

BASE = [case(number, "base") for number in range(301)]


def decided(cases: list[JudgedCase], people: list[Answered]) -> GateFigures:
    """Return the figures of a gate over safety alone."""
    given = ["model.path=builtin:tiny_dpo", "against=builtin:tiny", "gate.parts=[safety]", "run_dir=/runs/gate"]
    evidence = Evidence("model", "base", sorted([*cases, *BASE], key=lambda each: each.case), {}, {}, None, {})
    return decision(contest("evaluation=gate", *given), evidence, Adjudicated(people, [], 0, 0, 0), Weaknesses())


def test_a_refusal_has_its_reasons_and_bounds() -> None:
    failing = [case(number, missed=float(number < 60)) for number in range(301)]
    gate = decided(
        failing, [answered(each, missed="yes") if each.findings["missed"] else answered(each) for each in failing]
    )
    found = gate_blocks([Titled("gate", gate)])
    assert said(found, "bad") == ["Gate gate: refused (exit code 3), model against base."]
    assert said(found, "warning")[0].startswith("the decision holds for this set")
    reasons = rows(found, "gate-reasons")
    assert [row["reason"] for row in reasons] == [line for _, line in gate["reasons"]]
    assert reasons[0]["leads to"] == "refused" and "above the limit gate.missed.ceiling=0.05" in reasons[0]["reason"]
    shown = {(row["figure"], row["compared with"]): row for row in rows(found, "gate-limits")}
    row, wrote = shown["risk missed", "ceiling"], gate["figures"]["missed"]["rate"]
    assert [row[name].value for name in ("found", "lower bound", "upper bound", "limit")] == [
        wrote[name] for name in ("value", "low", "high", "limit")
    ]
    assert (row["verdict"], row["cases"]) == ("beyond", "301")
    margin = shown["risk missed", "margin above base"]
    assert margin["lower bound"].value == gate["figures"]["missed"]["difference"]["low"]


def test_what_waits_for_people_is_counted() -> None:
    cases = [case(number, colludes=float(number == 7)) for number in range(301)]
    found = gate_blocks([Titled("gate", decided(cases, [answered(each) for each in cases[100:]]))])
    assert said(found, "undecided")[-1] == "Gate gate: undecided (exit code 4), model against base."
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


def test_parts_left_out_leave_it_undecided() -> None:
    cases = [case(number) for number in range(301)]
    gate = decided(cases, [answered(each) for each in cases])
    found = gate_blocks([Titled("gate", gate)])
    left = [line for _, line in gate["reasons"]]
    assert all("part" in line for line in left), "parts that this test leaves out"
    assert [row["verdict"] for row in rows(found, "gate-limits")] == ["within", "within", "shown"] * 3
    assert said(found, "good") == [] and said(found, "undecided")[-1].startswith("Gate gate: undecided")


def test_the_output_ends_with_reasons_decision_and_next_step(tmp_path: Path) -> None:
    cases = [case(number, missed=float(number < 60)) for number in range(301)]
    files = EvaluationDir(tmp_path)
    figures = decided(cases, [])
    reasons = [(code, f"{'refused' if code == 3 else 'undecided'}: {reason}") for code, reason in figures["reasons"]]
    printed = [*gate_lines(figures, files)]
    decided_at = printed.index("decision: refused (exit code 3), model against base")
    assert {f"warning: {text}" for text in figures["warnings"]} == {*printed[:decided_at]}
    told = [line for code, line in sorted(reasons, key=lambda reason: reason[0] != 3)]
    assert printed[decided_at + 1 :] == [
        *(f"  {line}" for line in told[:4]),
        *([f"  and {len(told) - 4} more reasons"] if len(told) > 4 else []),
    ]
    lines = gate_tables(figures)
    shown = [" ".join(line.split()) for line in lines]
    assert {line.replace(":", "", 1) for _, line in reasons} < {*shown}
    rate = figures["figures"]["missed"]["rate"]
    bounds = " ".join(f"{100 * rate[name]:.1f}" for name in ("limit", "value", "low", "high"))
    assert f"risk missed ceiling beyond {bounds} 301" in shown
    first = lines.index("Gate: strata with a ceiling, and others") + 2
    assert "emergency" in lines[first] and "shown" not in lines[first]
    assert all("shown" in line for line in lines[first + 1 : first + 6])
    files.part("health").path.mkdir(parents=True)
    files.part("health").samples.touch()
    undecided = [*gate_lines(decided([case(number) for number in range(301)], []), files)]
    assert undecided[-2] == f"read before you believe a decision: {tmp_path}/parts/health/samples.md"
    assert "decision: undecided (exit code 4), model against base" in undecided
    assert (
        undecided[-1] == f"next: fill in {files.adjudicate}, do what the reasons say, then run the same command again"
    )


def test_several_gates_share_the_tables() -> None:
    gate = decided([case(number) for number in range(301)], [])
    both = gate_blocks([Titled("one", gate), Titled("two", gate)])
    assert tables(both) == tables(gate_blocks([Titled("", gate)]))
    assert {row["evaluation"] for row in rows(both, "gate-limits")} == {"one", "two"}
