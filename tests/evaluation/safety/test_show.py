"""Blocks of `evaluation=safety`: warnings first, figures as in figures.json, flagged replies by id without text."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from psychocounsel.blocks.cells import Titled
from psychocounsel.blocks.kinds import Block, Paragraph
from psychocounsel.blocks.terminal import terminal_lines
from psychocounsel.counsel.principles import ACTIONS, EXPECTED, allowed_actions
from psychocounsel.evaluation.safety import figures_step
from psychocounsel.evaluation.safety.figures import Judge, SafetyFigures, SafetySetting
from psychocounsel.evaluation.safety.questions import SAFETY_FIGURES
from psychocounsel.evaluation.safety.seeded import seeded_replies
from psychocounsel.evaluation.safety.show import safety_blocks, safety_summary
from psychocounsel.evaluation.safety.speeches import AXES, CrisisSpeech, crisis_speeches, swapped_speeches
from psychocounsel.storage.files import read_json
from tests.support.contests import context
from tests.support.safety_folders import AGREES, WORDS, fitting, safety_run
from tests.support.shown_blocks import chart, numbers, rows, said, tables, written

LIMIT = 60
SPEECHES = crisis_speeches()[:LIMIT]
SWAPPED = [each for each in swapped_speeches() if each.base in SPEECHES]
AT_RISK = [each for each in SPEECHES if allowed_actions(each.expected_action)[0] in ACTIONS[1:]]


def despairs(each: CrisisSpeech) -> str:
    """Reply that agrees with every third speech and fits the others."""
    return AGREES if crisis_speeches().index(each) % 3 == 0 else fitting(each)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("safety")
    return safety_run(folder / "out", {"mine": despairs, "calm": lambda speech: WORDS["none"]}, LIMIT)


@pytest.fixture(scope="module")
def run(folder: Path) -> Titled[SafetyFigures]:
    figures: Any = read_json(folder / "figures.json")
    steps: Any = {file.stem: read_json(file) for file in folder.glob("steps/*.json")}
    return Titled("", figures, steps)


@pytest.fixture(scope="module")
def found(run: Titled[SafetyFigures]) -> list[Block]:
    return safety_blocks([run])


def judged(run: Titled[SafetyFigures]) -> Judge[SafetySetting]:
    return run.figures["judges"]["checks"]


def test_warnings_stand_before_every_figure(found: list[Block]) -> None:
    first, *others = found
    assert isinstance(first, Paragraph) and "no clinician has reviewed it" in first.text
    assert first.tone == "warning"
    assert not any("clinician" in each.text for each in others if isinstance(each, Paragraph))


def test_figures_have_the_intervals_of_the_evaluation(run: Titled[SafetyFigures], found: list[Block]) -> None:
    shown = {(row["contestant"], row["figure"]): row for row in rows(found, "safety")}
    for name in ("mine", "calm"):
        for key, figure in SAFETY_FIGURES.items():
            row, told = shown[name, figure.title], judged(run)["settings"][name]["figures"][key]
            assert (row["speeches"], row["judge"]) == (str(told["prompts"]), "checks")
            assert numbers(row["share of replies"]) == written(told, "mean")
    agreed = sum(despairs(each) == AGREES for each in AT_RISK)
    assert numbers(shown["mine", "risk missed"]["share of replies"])[0] == pytest.approx(agreed / len(AT_RISK))
    assert numbers(shown["calm", "risk missed"]["share of replies"])[0] == 1


def test_differences_are_those_to_the_base(run: Titled[SafetyFigures], found: list[Block]) -> None:
    row = next(row for row in rows(found, "safety-differences") if row["figure"] == "risk missed")
    compared = judged(run)["against"]["calm"]["missed"]
    assert (row["model"], row["minus"], row["verdict"]) == ("mine", "calm", "better")
    assert numbers(row["difference"]) == written(compared, "difference")
    assert (row["model's"].value, row["base's"].value) == (compared["mine"], compared["base"])


def test_flagged_replies_are_counted_and_named_by_their_ids_alone(found: list[Block]) -> None:
    flagged = [each.speech for each in SPEECHES if despairs(each) == AGREES]
    counted = {(row["contestant"], row["flag"]): row["flagged"] for row in rows(found, "safety-hard-flags")}
    assert counted["mine", "colludes with harm"] == str(len(flagged)) and counted["calm", "colludes with harm"] == "0"
    assert [row["speech"] for row in rows(found, "safety-flagged")] == flagged
    warning = f"mine: {len(flagged)} replies flagged: colludes with harm; read them first"
    assert warning in said(found, "bad") and not any("calm" in line for line in said(found, "bad"))
    assert AGREES not in repr(found) and not any(each.text in repr(found) for each in SPEECHES)


def test_strata_stand_in_tables_and_both_failures_in_a_chart(run: Titled[SafetyFigures], found: list[Block]) -> None:
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
    assert list(shown) == [label for label in EXPECTED if label in shown], "in the order of urgency"
    drawn = chart(found, "safety-failures-by-kind")
    curve = next(each for each in drawn.curves if each.title == "mine: risk missed")
    places = {drawn.ticks[round(place)]: number for number, place in enumerate(curve.x["kind of risk"])}
    known = {kind: each["missed"] for kind, each in strata["kind"].items() if each["missed"]["low"] is not None}
    assert set(places) == set(known) and len(places) > 3
    for kind, told in known.items():
        assert (curve.y[places[kind]], curve.low[places[kind]], curve.high[places[kind]]) == written(told, "mean")  # type: ignore[index]


def test_judges_are_shown_with_their_errors(run: Titled[SafetyFigures], found: list[Block]) -> None:
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


def test_dimensions_and_swaps_are_shown_as_written(run: Titled[SafetyFigures], found: list[Block]) -> None:
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


def test_an_evaluation_without_swaps_or_dimensions_has_no_such_tables(run: Titled[SafetyFigures]) -> None:
    plain: Any = {**judged(run)["settings"]["mine"]}
    del plain["swaps"], plain["dimensions"]
    judges: dict[str, Judge[SafetySetting]] = {"checks": {**judged(run), "settings": {"mine": plain}}}
    names = tables(safety_blocks([Titled("", {**run.figures, "judges": judges})]))
    assert "safety" in names and not [name for name in names if "swaps" in name or "dimensions" in name]


def test_several_evaluations_and_judges_are_told_apart(run: Titled[SafetyFigures]) -> None:
    judges = {"checks": judged(run), "j": judged(run)}
    other: SafetyFigures = {**run.figures, "judges": judges, "warnings": ["warning: only here"]}
    blocks = safety_blocks([replace(run, title="first"), Titled("again", other)])
    assert "again: only here" in said(blocks, "warning")
    titles = [curve.title for curve in chart(blocks, "safety-failures-by-kind").curves]
    assert len(titles) == len({*titles}) == 12 and "again: calm, by j: over-escalated" in titles


def test_the_step_prints_the_summary(folder: Path, run: Titled[SafetyFigures]) -> None:
    printed = list[str]()
    config: Any = OmegaConf.load(folder / "config.yaml")
    figures_step.run(context(config, folder, printed))
    assert len(printed) < 10 and "by the judge checks" in printed[0] and "; over-escalated " in printed[0]
    printed = (folder / "tables.txt").read_text().splitlines()
    assert printed == "\n".join(terminal_lines(safety_summary([run]))).strip().splitlines()
    flagged = sum(despairs(speech) == AGREES for speech in SPEECHES)
    assert f"warning: mine: {flagged} replies flagged: colludes with harm; read them first" in printed
    table = [" ".join(line.split()) for line in printed]
    assert any(line.startswith("checks mine calm risk missed") and line.endswith("better") for line in table)
