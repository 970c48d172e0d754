"""Tests of the sections "What was asked" and on gaps: differences, shared settings, and what is missing."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from psychocounsel.blocks.tables import Table, TableFigure, csv_of
from psychocounsel.reporting.material import EVALUATION, RunMaterial, StudyMaterial
from psychocounsel.reporting.sections.overview import missing_section, question_section
from psychocounsel.reporting.sections.overview import study_section as study_section
from tests.reporting.sections.shown import material_of, trained
from tests.support.shown_blocks import rows, said, tables

# What was asked


def test_differences_count_runs_and_equal_settings_are_a_line() -> None:
    runs = [
        trained({"algo.beta": beta, **more}, seed)
        for beta, more in (("0.1", {}), ("0.3", {"x": "y"}))
        for seed in (1, 2)
    ]
    found = question_section(material_of(*runs))
    assert rows(found, "question-settings") == [
        {"setting": "algo.beta", "values (runs)": "0.1 (2) and 0.3 (2)", "runs without it": ""},
        {"setting": "x", "values (runs)": "y (2)", "runs without it": "2"},
    ]
    counts, equal, versions = said(found)
    assert counts == "4 trainings; seeds 1 and 2."
    assert "data builtin:sample" in equal and "algorithm DPO" in equal and "prompts per step 32" in equal
    assert versions == "Versions: psychocounsel 0.1.0."


def test_what_differs_is_not_called_equal() -> None:
    runs = [trained({}, 1), trained({}, 2, config={"global_batch_size": 64})]
    assert "prompts per step" not in " ".join(said(question_section(material_of(*runs))))
    assert "No setting but the seed differs" in said(question_section(material_of(*runs)))[-1]


def test_a_study_shows_stages_gates_choices_and_its_tables_digit_for_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = TableFigure(0.123456789, 0.01, 0.1, 0.14, 3)
    text = csv_of(Table("t", ["setting", "accuracy", "note"], [["a", cell, "x"], ["b", None, ""]]))
    runs = [trained({"x": x}, stage="dpo", status=status) for x, status in (("1", "finished"), ("2", "failed"))]
    study = StudyMaterial(
        runs[0].path.parent, "mine", ["dpo", "ppo"], {"dpo": False}, {"algorithms": text}, {"dpo": runs[0].path}
    )
    found = study_section(material_of(*runs, studies=[study]))
    assert tables(found) == ["study-stages", "study-algorithms"]
    first, second = rows(found, "study-stages")
    assert first == {
        "stage": "dpo",
        "runs": "2",
        "finished": "1",
        "others": "1 failed",
        "gate": "not passed",
        "best run": "x=1, seed=1",
    }
    assert (second["runs"], second["gate"]) == ("0", "")
    monkeypatch.chdir("/")  # the folder may be typed as a relative path
    relative = replace(study, path=study.path.relative_to("/"))
    assert rows(study_section(material_of(*runs, studies=[relative])), "study-stages") == [first, second]
    assert rows(found, "study-algorithms") == [
        {"setting": "a", "accuracy": cell, "note": "x"},
        {"setting": "b", "accuracy": None, "note": None},
    ]


# Gaps

SLURM = {"cluster": {"_target_": "psychocounsel.cluster.slurm.cluster.Slurm"}}


def lines_of(*runs: RunMaterial, **more: object) -> list[str]:
    return said(missing_section(material_of(*runs, **more)))


def test_runs_that_did_not_finish_say_what_to_type() -> None:
    state = {"step": 3, "total": 8}
    failed = trained({"x": "1"}, status="failed", state=state, config=SLURM)
    in_sweep = trained({"x": "2"}, status="stopped", sweep=Path("/runs/sweep"), state=state)
    of_study = trained({"x": "3"}, status="not run", stage="dpo")
    running = trained({"x": "4"}, status="running", state=state)
    evaluated = RunMaterial(Path("/runs/won"), "won", EVALUATION, "winrate", "failed", sweep=Path("/runs"))
    found = lines_of(failed, in_sweep, of_study, running, evaluated)
    assert any(
        text.startswith("x=1, seed=1: failed at step 3 of 8. ") and "psychocounsel jobs resubmit" in text
        for text in found
    )
    assert any(
        "x=2, seed=1: stopped at step 3 of 8. Run the sweep's command again" in text and "train -m" in text
        for text in found
    )
    assert any("x=3, seed=1: not run. Run the study's command again" in text for text in found)
    assert "x=4, seed=1 is running at step 3 of 8: its figures are not final." in found
    assert any(
        "won: failed. Run the sweep's command again to resume it (psychocounsel evaluate -m" in text for text in found
    )


def test_an_audit_that_was_refused_has_ended() -> None:
    audit = RunMaterial(Path("/audit"), "audit", "audit", "", "refused")
    assert lines_of(audit) == []


def test_figures_that_are_not_finite_are_counted_beside_what_reading_met() -> None:
    lines = [{"step": 1, "loss": math.nan, "grad_norm": math.inf}, {"step": 2, "loss": 0.5}]
    found = lines_of(trained({}, lines=lines, problems=["has no code.txt"]))
    assert "seed=1: 2 figures are not finite (nan or inf) and not in any chart." in found
    assert "seed=1: has no code.txt" in found


def test_single_runs_and_equal_seeds() -> None:
    line = [{"step": 1}]
    found = lines_of(*(trained({"x": "1"}, seed, lines=line) for seed in (1, 1)), trained({"x": "2"}, 1, lines=line))
    assert any(
        text.startswith("n=1: x=2: a single finished run, so the spread over seeds is unknown") for text in found
    )
    assert any("share settings and seed" in text for text in found)


def test_what_is_not_comparable_is_named() -> None:
    line = [{"step": 1}]
    rows = {"processes": 1, "data": "other", "versions": {"psychocounsel": "0.2.0"}}
    runs = [
        trained({"x": "1"}, 1, {"eval/loss": 0.5}, lines=line),
        trained({"x": "2"}, 1, {"eval/loss": 0.5}, algo={"beta": 0.3}, environment=rows, lines=line),
    ]
    found = lines_of(*runs)
    assert "Losses of policies cannot be compared, because algo.beta differs." in found
    assert any(
        "x=2, seed=1: trained on other rows than x=1, seed=1" in text and "the files have changed" in text
        for text in found
    )
    assert "The runs were made by several versions of the code: x=1, seed=1 (0.1.0) and x=2, seed=1 (0.2.0)." in found


def test_the_run_with_the_first_known_data_is_named() -> None:
    line = [{"step": 1}]
    runs = [
        trained({"x": x}, 1, {"eval/loss": 0.5}, environment={"processes": 1, "data": data}, lines=line)
        for x, data in (("1", None), ("2", "some"), ("3", "other"))
    ]
    assert any("x=3, seed=1: trained on other rows than x=2, seed=1" in text for text in lines_of(*runs))


def test_nothing_is_missing_of_a_whole_sweep() -> None:
    runs = [trained({"x": x}, seed, {"eval/loss": 0.5}, lines=[{"step": 1}]) for x in "12" for seed in (1, 2)]
    assert lines_of(*runs) == []
