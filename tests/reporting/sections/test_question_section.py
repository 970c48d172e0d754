"""Tests of the section "What was asked": differences with their number of runs, and shared settings."""

from psychocounsel.reporting.material import StudyMaterial
from psychocounsel.reporting.sections.question_section import section
from psychocounsel.reporting.sections.study_section import section as study_section
from psychocounsel.studies.tables.formats import Table, csv_of
from psychocounsel.studies.tables.runs import TableFigure
from tests.reporting.sections.evaluations.shown import rows, said, tables
from tests.reporting.sections.hand_made import material_of, trained


def test_differences_count_runs_and_equal_settings_are_a_line() -> None:
    runs = [
        trained({"algo.beta": beta, **more}, seed)
        for beta, more in (("0.1", {}), ("0.3", {"x": "y"}))
        for seed in (1, 2)
    ]
    found = section(material_of(*runs))
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
    assert "prompts per step" not in " ".join(said(section(material_of(*runs))))
    assert "No setting but the seed differs" in said(section(material_of(*runs)))[-1]


def test_a_study_shows_stages_gates_choices_and_its_tables_digit_for_digit() -> None:
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
    assert rows(found, "study-algorithms") == [
        {"setting": "a", "accuracy": cell, "note": "x"},
        {"setting": "b", "accuracy": None, "note": None},
    ]
