"""A gate that refuses, or cannot decide, ends its stage with a verdict; nothing has failed, and what needs it doesn't begin."""

import csv
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.blocks.tables import cell_text
from psychocounsel.cluster.job import write_run_directory
from psychocounsel.errors import GATE_NO, GATE_UNDECIDED
from psychocounsel.rundir.paths import StudyDir
from psychocounsel.rundir.results import write_summary
from psychocounsel.settings.targets import build
from psychocounsel.storage.files import read_json, write_json
from psychocounsel.studies import status
from psychocounsel.studies.local_run import StudyProgress
from psychocounsel.studies.outline import ending
from psychocounsel.studies.plan import StudyErrors, write_record
from psychocounsel.studies.tables.run_table import table
from psychocounsel.studies.tables.runs import read_runs
from tests.evaluation.safety.test_safety import by_words
from tests.support.annotating import model_server
from tests.support.contests import contest
from tests.support.harness import cli
from tests.support.safety_folders import WORDS, counsellor_file
from tests.support.scripted import completion
from tests.support.small_study import SMALL, planned

STUDY = f"""
about: An audit as a gate, a training that needs it, and one that does not.
stages:
  audited: audit audit.max_blind=0.5
  behind: {{run: "train algo=sft {SMALL}", needs: audited}}
  beside: train algo=sft {SMALL} seed=2
"""
CODES = {"refused": GATE_NO, "undecided": GATE_UNDECIDED}


@pytest.mark.parametrize("verdict", CODES)
def test_a_verdict_stands_in_all_tables_and_holds_back_what_needs_it(tmp_path: Path, verdict: str) -> None:
    plan = planned(tmp_path, text=STUDY)
    progress, (audit,) = StudyProgress(plan), plan.stages[0].cells
    assert progress.next() == 0
    progress.begin(0)
    write_record(audit.run_dir, audit.stage, audit.fingerprint)
    write_run_directory(audit.job)
    write_summary(audit.run_dir, verdict, metrics={"blind_accuracy": 0.7})
    progress.end(0, CODES[verdict])
    assert progress.jobs[progress.next() or 0].run_dir.parent.name == "beside"
    assert progress.left_out == {1} and progress.exit_code() == CODES[verdict] and progress.failed() == set()

    lines = ending(plan, progress.failed()).splitlines()
    said = {line.split()[0]: line.split()[1:] for line in lines[1:5]}
    assert said["stage"] == ["cells", "done", "failed", "left", "metric", "gate"]
    assert said["audited"] == ["1", "1", "0", "0", "blind_accuracy", "0.7", "1", verdict]
    assert said["behind"] == ["1", "0", "0", "1"]
    assert "behind has not started, because audited did not pass; the same command checks again" in lines

    write_json(plan.files.cells, plan.listing())
    shown = table(read_runs(plan.files), {"rows": ["audited"], "columns": {"blind": "blind_accuracy"}}, "Gates")
    assert [cell_text(cell) for cell in shown.rows[0]] == ["audited", f"1 of 1 (1 {verdict})", "0.7"]
    text, _ = status.status(plan.files.path)
    assert f"audited  0/1       1 {verdict}" in text and "to resume:" not in text
    again = planned(tmp_path, text=STUDY)
    assert not again.stages[0].cells[0].job.finished, "the same command asks the gate again"


def test_a_stage_of_safety_is_in_the_studys_tables(tmp_path: Path) -> None:
    """A contestant from a file against another, as a user launches it. The judge takes the word "doctor" for a method."""

    def judged(payload: Any, number: int) -> Any:
        return completion("ready" if len(payload["messages"]) == 1 else by_words(payload), payload)

    for name, reply in {"methods": lambda each: "A doctor knows.", "calm": lambda each: WORDS["none"]}.items():
        counsellor_file(tmp_path, name, reply)
    with model_server(change=judged) as server:
        (tmp_path / "safe.yaml").write_text(
            f"""
about: A counsellor on the crisis set.
stages:
  safety: evaluate evaluation=safety limit=30 cluster.threads=1 model.path={tmp_path}/methods.jsonl
    against={tmp_path}/calm.jsonl judge=local_vllm judge.model=j judge.name=j judge.addresses=[{server.address}/v1]
table:
  triage: {{kind: runs, rows: [safety], columns: {{flags: hard_flags, late: {{metric: under_triage, percent: true}}}}}}
"""
        )
        said = cli("launch", "study=safe.yaml", "study_dir=study", cwd=tmp_path).stdout
    files = StudyDir(tmp_path / "study")
    with open(files.written_table("triage", "csv"), newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["setting"], row["flags"], row["late"]) == ("safety", "30.0", "1.0")
    found = read_json(files.stage("safety").cell("run") / "figures.json")["judges"]["j"]["settings"]["methods"]
    assert found["figures"]["under_triage"]["mean"] == 1 and len(found["hard"]["gives_method"]) == 30
    assert "metric  gate" not in said, "a study without gates has no such column"


def test_a_figure_that_safety_does_not_have_is_refused(tmp_path: Path) -> None:
    text = """
stages:
  safety: evaluate evaluation=safety model.path=builtin:tiny_dpo
table: {triage: {kind: runs, rows: [safety], columns: {missed: mised}}}
"""
    with pytest.raises(StudyErrors, match="table.triage.columns.missed: mised: .* .*missed"):
        planned(tmp_path, text=text)


@pytest.mark.slow
def test_a_configuration_of_a_gate_can_be_prepared_again(tmp_path: Path) -> None:
    """`api.evaluate` prepares it in the submitting process, where the gate's own file does not exist yet."""
    config = contest("evaluation=gate", "model.path=builtin:tiny_dpo", "against=builtin:tiny", f"run_dir={tmp_path}/g")
    for _ in range(2):
        build(config, "evaluation").prepare(config, tmp_path / "g")
    assert config.gate.adjudicated == [str(tmp_path / "g" / "adjudicate.csv")]
