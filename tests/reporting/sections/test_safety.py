"""Tests of the safety section: warnings first, figures as in figures.json, flagged replies by id without text."""

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.blocks.kinds import Paragraph, Report, Section
from psychocounsel.evaluation.safety.questions import SAFETY_FIGURES
from psychocounsel.evaluation.safety.seeded import seeded_replies
from psychocounsel.evaluation.safety.speeches import AXES, CrisisSpeech, crisis_speeches, swapped_speeches
from psychocounsel.reporting.exports import write_cells
from psychocounsel.reporting.material import EVALUATION, RunMaterial
from psychocounsel.reporting.reading.runs import read_run_material
from psychocounsel.reporting.reading.texts import shown_texts
from psychocounsel.reporting.sections.by_setting import setting_tables
from psychocounsel.reporting.sections.safety import section
from tests.reporting.sections.shown import material, run_of
from tests.support.safety_folders import AGREES, WORDS, fitting, safety_run
from tests.support.shown_blocks import chart, numbers, rows, said, tables, written

LIMIT = 60
SPEECHES = crisis_speeches()[:LIMIT]
SWAPPED = [each for each in swapped_speeches() if each.base in SPEECHES]
AT_RISK = [each for each in SPEECHES if each.expected_action != "none"]


def despairs(each: CrisisSpeech) -> str:
    """Reply that agrees with every third speech and fits the others."""
    return AGREES if crisis_speeches().index(each) % 3 == 0 else fitting(each)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunMaterial:
    folder = tmp_path_factory.mktemp("safety")
    return read_run_material(safety_run(folder / "out", {"mine": despairs, "calm": lambda each: WORDS["none"]}, LIMIT))


@pytest.fixture(scope="module")
def found(run: RunMaterial) -> Section:
    return section(material(run))


def judged(run: RunMaterial) -> Mapping[str, Any]:
    by_checks: Mapping[str, Any] = run.figures["judges"]["checks"]
    return by_checks


def test_warnings_stand_before_every_figure(found: Section) -> None:
    first, second, *others = found.blocks
    assert isinstance(first, Paragraph) and "no clinician has reviewed it" in first.text
    assert isinstance(second, Paragraph) and "only matches words" in second.text
    assert (first.tone, second.tone) == ("warning", "warning")
    assert not any("clinician" in each.text for each in others if isinstance(each, Paragraph))


def test_figures_have_the_intervals_of_the_evaluation(run: RunMaterial, found: Section) -> None:
    shown = {(row["contestant"], row["figure"]): row for row in rows(found, "safety")}
    for name in ("mine", "calm"):
        for key, figure in SAFETY_FIGURES.items():
            row, told = shown[name, figure.title], judged(run)["settings"][name]["figures"][key]
            assert (row["speeches"], row["judge"]) == (str(told["prompts"]), "checks")
            assert numbers(row["share of replies"]) == written(told, "mean")
    agreed = sum(despairs(each) == AGREES for each in AT_RISK)
    assert numbers(shown["mine", "risk missed"]["share of replies"])[0] == pytest.approx(agreed / len(AT_RISK))
    assert numbers(shown["calm", "risk missed"]["share of replies"])[0] == 1


def test_differences_are_those_to_the_base(run: RunMaterial, found: Section) -> None:
    row = next(row for row in rows(found, "safety-differences") if row["figure"] == "risk missed")
    compared = judged(run)["against"]["calm"]["missed"]
    assert (row["model"], row["minus"], row["verdict"]) == ("mine", "calm", "better")
    assert numbers(row["difference"]) == written(compared, "difference")
    assert (row["model's"].value, row["base's"].value) == (compared["mine"], compared["base"])


def test_flagged_replies_are_counted_and_named_by_their_ids_alone(found: Section) -> None:
    flagged = [each.speech for each in SPEECHES if despairs(each) == AGREES]
    counted = {(row["contestant"], row["flag"]): row["flagged"] for row in rows(found, "safety-hard-flags")}
    assert counted["mine", "colludes with harm"] == str(len(flagged)) and counted["calm", "colludes with harm"] == "0"
    assert [row["speech"] for row in rows(found, "safety-flagged")] == flagged
    assert any("Flagged replies come first under Replies side by side" in line for line in said(found, "bad"))
    assert AGREES not in repr(found) and not any(each.text in repr(found) for each in SPEECHES)


def test_without_texts_nothing_leads_to_replies_that_are_not_shown(run: RunMaterial) -> None:
    assert not said(section(material(run, shows_texts=False)), "bad")


def test_strata_stand_in_tables_and_both_failures_in_a_chart(run: RunMaterial, found: Section) -> None:
    strata = judged(run)["settings"]["mine"]["strata"]
    for division, name, heading in (
        ("kind", "safety-by-kind", "kind of risk"),
        ("disclosure", "safety-by-disclosure", "disclosure"),
        ("expected_action", "safety-by-expected-action", "expected action"),
    ):
        shown = {row[heading]: row for row in rows(found, name) if row["contestant"] == "mine"}
        assert set(shown) == set(strata[division])
        for stratum, figures in strata[division].items():
            missed = shown[stratum]["risk missed"]
            assert (missed and numbers(missed)) == (written(figures["missed"], "mean") if missed else None)
            assert shown[stratum]["speeches"] == str(figures["triage_fits"]["prompts"])
    assert list(shown) == ["none", "monitor", "same_day", "emergency"], "in the order of urgency"
    drawn = chart(found, "safety-failures-by-kind")
    curve = next(each for each in drawn.curves if each.title == "mine: risk missed")
    places = {drawn.ticks[round(place)]: number for number, place in enumerate(curve.x["kind of risk"])}
    known = {kind: each["missed"] for kind, each in strata["kind"].items() if each["missed"]["low"] is not None}
    assert set(places) == set(known) and len(places) > 3
    for kind, told in known.items():
        assert (curve.y[places[kind]], curve.low[places[kind]], curve.high[places[kind]]) == written(told, "mean")  # type: ignore[index]


def test_judges_are_shown_with_their_errors(run: RunMaterial, found: Section) -> None:
    shown = {row["figure"]: row for row in rows(found, "safety-judge-quality")}
    quality = judged(run)["quality"]
    for key, each in quality.items():
        row = shown[SAFETY_FIGURES[key].title]
        assert numbers(row["sensitivity"]) == written(each["sensitivity"])
        assert numbers(row["specificity"]) == written(each["specificity"])
        assert row["faults found"] == f"{each['sensitivity']['right']} of {each['sensitivity']['of']}"
    [calls] = rows(found, "safety-judges")
    asked = LIMIT + len(SWAPPED)
    assert calls["outcomes of all calls"] == f"{2 * asked + len(seeded_replies())} text"
    assert [row["outcomes of all calls"] for row in rows(found, "safety-replies")] == [f"{asked} text"] * 2


def test_dimensions_and_swaps_are_shown_as_written(run: RunMaterial, found: Section) -> None:
    mine = judged(run)["settings"]["mine"]
    shown = {row["dimension"]: row for row in rows(found, "safety-dimensions") if row["contestant"] == "mine"}
    assert set(shown) == set(mine["dimensions"]) and len(shown) == 5
    for dimension, told in mine["dimensions"].items():
        assert numbers(shown[dimension]["high fault"]) == written(told["high"], "mean")
    swaps = mine["swaps"]
    assert [row["axis"] for row in rows(found, "safety-swaps-urgency")] == [*AXES] * 2
    for row in rows(found, "safety-swaps"):
        if (row["contestant"], row["figure"]) == ("mine", "risk missed"):
            assert numbers(row["variant minus speech"]) == written(swaps["axes"][row["axis"]]["missed"], "difference")
    [pairs, *_] = rows(found, "safety-swaps-pairs")
    assert numbers(pairs["another urgency"]) == written(swaps["axes"]["dialect"]["changed"], "mean")
    counted = {row["dialect"]: row["as urgently"] for row in rows(found, "safety-swaps-dialects")}
    assert counted == {variety: str(each["as"]) for variety, each in swaps["varieties"].items()}
    flagged = [row["speech"] for row in rows(found, "safety-swaps-flagged")]
    assert flagged == [each["speech"] for each in swaps["hard"]["colludes"]] and len(flagged) % 3 == 0 < len(flagged)


def test_an_evaluation_without_swaps_or_dimensions_has_no_such_tables(run: RunMaterial, tmp_path: Path) -> None:
    plain = {key: value for key, value in judged(run)["settings"]["mine"].items() if key not in ("swaps", "dimensions")}
    figures = {**run.figures, "judges": {"checks": {**judged(run), "settings": {"mine": plain}}}}
    names = tables(section(material(replace(run, figures=figures))))
    assert "safety" in names and not [name for name in names if "swaps" in name or "dimensions" in name]


def test_several_evaluations_and_judges_are_told_apart(run: RunMaterial, tmp_path: Path) -> None:
    figures = {**run.figures, "judges": {"checks": judged(run), "j": judged(run)}}
    other = replace(run, path=tmp_path, title="again", figures={**figures, "warnings": ["warning: only here"]})
    found = section(material(run, other))
    assert "again: only here." in said(found, "warning")
    titles = [each.title for each in chart(found, "safety-failures-by-kind").curves]
    assert len(titles) == len({*titles}) == 12 and "again: calm, by j: over-escalated" in titles


def test_an_evaluation_without_figures_says_so(tmp_path: Path) -> None:
    run = run_of(tmp_path / "begun", EVALUATION, "safety", status="stopped")
    assert said(section(material(run))) == ["begun: no figures, because it is stopped."]
    assert not section(material()).blocks


def test_cells_go_to_the_csv(run: RunMaterial, found: Section, tmp_path: Path) -> None:
    write_cells(Report("safety", [], [found]), tmp_path / "report.csv")
    with open(tmp_path / "report.csv", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["table"] == "safety-by-kind"]
    strata = judged(run)["settings"]["calm"]["strata"]["kind"]
    tail = lines[len(lines) // 2 :]
    first = next(line for line in tail if line["column"] == "risk missed" and line["value"])
    kind = next(line["text"] for line in tail if line["column"] == "kind of risk" and line["line"] == first["line"])
    assert [float(first[key]) for key in ("value", "low", "high") if first[key]] == [
        number for number in written(strata[kind]["missed"], "mean") if number is not None
    ]


def test_settings_are_listed_with_the_failures_first(run: RunMaterial) -> None:
    table = setting_tables(material(run))["safety"]
    assert table.headings[2:6] == ["hard flags", "missed", "not asked", "under triage"]
    [row] = table.rows
    assert row[2].percent is False and row[3].percent is True  # type: ignore[union-attr]


def test_speeches_at_risk_wait_and_flagged_ones_stand_first(run: RunMaterial) -> None:
    shown = shown_texts(run.path, EVALUATION, run.config, most=40)
    assert shown is not None and shown.count == LIMIT + len(SWAPPED)
    texts = {each.text for each in SPEECHES if despairs(each) == AGREES}
    texts |= {each.text for each in SWAPPED if despairs(each.base) == AGREES}
    assert {each.speech for each in shown.speeches[: len(texts)]} == texts
    for each in shown.speeches:
        scores = {reply.author: reply.scores for reply in each.replies}
        assert scores["mine"] == ({"colludes with harm, by checks": 1.0} if each.speech in texts else {})
        assert each.crisis == (each.risk != "none" or each.speech in texts) and scores["calm"] == {}
    assert any(not each.crisis for each in shown.speeches), "a look-alike"
