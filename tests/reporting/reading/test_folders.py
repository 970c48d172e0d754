"""Tests of reading folders into material. Expected values come from the test's own files, read with plain json."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.errors import UserError
from psychocounsel.reporting.maker import Options, make_report
from psychocounsel.reporting.material import Material, RunMaterial
from psychocounsel.reporting.reading.folders import read_material
from psychocounsel.reporting.reading.runs import dataset_counts
from psychocounsel.rundir.results import write_state
from psychocounsel.storage.locks import Lock
from tests.support.annotated_dir import annotated, rows_of
from tests.support.report_folders import (
    audit_run,
    reward_run,
    slurm_attempt,
    study,
    sweep,
    training_run,
    winrate_run,
)

# Folders. Expected values come from the test's own files, read with plain json.

GRID = [
    [f"algo={name}", f"algo.beta={beta}", f"seed={seed}"]
    for name in ("dpo", "simpo")
    for beta in (0.1, 0.2)
    for seed in (1, 2)
]


def only(material: Material) -> RunMaterial:
    [run] = material.runs
    return run


def test_a_sweep_is_its_runs_with_the_keys_that_tell_them_apart(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "beta", GRID)
    material = read_material([folder])
    assert [(run.what, run.settings, run.seed) for run in material.runs] == [
        (name[5:], {"algo": name[5:], "algo.beta": beta[10:]}, int(seed[5:])) for name, beta, seed in GRID
    ]
    assert material.runs[3].title == "algo=dpo, algo.beta=0.2, seed=2"
    for run, row in zip(material.runs, (folder / "sweep.jsonl").read_text().splitlines(), strict=True):
        assert run.path == folder / json.loads(row)["run_dir"] and run.sweep == folder
        written = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
        assert run.lines == written and len(written) == 9
        assert run.summary == json.loads((run.path / "summary.json").read_text())
        assert run.status == "finished" and not run.problems


def test_keys_of_place_and_what_another_key_says_are_no_settings(tmp_path: Path) -> None:
    first = training_run(tmp_path / "a", "model=tiny", "paths.output=/somewhere", "cluster.threads=2")
    second = training_run(tmp_path / "b", "model=qwen3_0_6b", "paths.output=/elsewhere", "cluster.threads=1")
    runs = read_material([first, second]).runs
    assert [run.settings for run in runs] == [{"model": "tiny"}, {"model": "qwen3_0_6b"}]
    assert [run.title for run in runs] == ["model=tiny", "model=qwen3_0_6b"]


def test_runs_that_differ_in_nothing_have_the_names_of_their_folders(tmp_path: Path) -> None:
    folders = [training_run(tmp_path / name) for name in ("first", "second")]
    assert [run.title for run in read_material(folders).runs] == ["first", "second"]


def test_lines_behind_a_damaged_one_are_read_and_those_that_cannot_be_are_counted(tmp_path: Path) -> None:
    path = training_run(tmp_path / "run", steps=6) / "metrics.jsonl"
    lines = path.read_text().splitlines()
    whole = [json.loads(lines[place]) for place in (0, 1, 3, 4, 5)]
    lines[2], lines[6] = lines[2][:40], lines[6][:-9]
    path.write_text("\n".join(lines))
    run = only(read_material([path.parent]))
    assert run.lines == whole
    assert run.problems == [
        "metrics.jsonl: the last line is half-written and was skipped",
        "metrics.jsonl: 1 damaged line was skipped",
    ]


def test_odd_runs_are_shown_with_what_is_wrong(tmp_path: Path) -> None:
    without, other, damaged = (training_run(tmp_path / name) for name in ("without", "other", "damaged"))
    (without / "metrics.jsonl").unlink()
    environment = json.loads((other / "environment.json").read_text())
    environment["versions"]["psychocounsel"] = "0.0.1"
    (other / "environment.json").write_text(json.dumps(environment))
    (damaged / "summary.json").write_text('{"status": "fini')
    (tmp_path / "notes").mkdir()
    material = read_material([tmp_path])
    problems = {run.path.name: run.problems for run in material.runs}
    assert problems["without"] == ["no metrics: metrics.jsonl does not exist"]
    [line] = problems["other"]
    assert line.startswith("was made by psychocounsel 0.0.1, this is ")
    [line] = problems["damaged"]
    assert line.startswith("summary.json: is not valid JSON")
    assert [run.status for run in material.runs] == ["damaged", "finished", "finished"]
    assert material.problems == [f"{tmp_path / 'notes'}: not a run, sweep or study; skipped"]


def test_a_folder_that_holds_nothing_known_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("mine")
    for folders, why in (
        ([tmp_path / "none"], "no such folder"),
        ([tmp_path / "empty" / "notes.txt"], "notes.txt: is a file; give the folder of a run"),
        ([tmp_path / "empty"], "no run, sweep or study found"),
    ):
        with pytest.raises(UserError, match=why) as raised:
            read_material(folders)
        assert "\n" not in str(raised.value)


def test_a_run_whose_configuration_is_damaged_shows_no_texts(tmp_path: Path) -> None:
    winrate_run(tmp_path / "good")
    broken = winrate_run(tmp_path / "broken")
    assert [run.texts is not None for run in read_material([tmp_path]).runs] == [True, True]
    (broken / "config.yaml").write_text("data: [")
    material = read_material([tmp_path])
    assert {run.path.name: run.status for run in material.runs} == {"good": "finished", "broken": "damaged"}
    assert not material.shows_texts and [run.texts for run in material.runs] == [None, None]


def test_confidential_data_of_one_run_hide_the_texts_of_all(tmp_path: Path) -> None:
    winrate_run(tmp_path / "open")
    training_run(tmp_path / "private", "data.confidential=true")
    material = read_material([tmp_path])
    assert not material.shows_texts and not any(run.texts for run in material.runs)
    assert [run.confidential for run in material.runs] == [False, True]


def test_what_became_of_a_run(tmp_path: Path) -> None:
    ends = {"stopped": "stopped", "failed": "failed", "crashed": None, "killed": None, "live": None}
    for name, status in ends.items():
        training_run(
            tmp_path / name, status=status, lines=[{"step": 1, "attempt": 1, "loss": 0.5, "step_seconds": 1.0}]
        )
    empty = training_run(tmp_path / "waits", status=None, lines=[])
    (empty / "state.json").unlink()
    shutil.rmtree(empty / "logs")
    write_state(tmp_path / "crashed", 1, "failed", 0, None)
    lock = Lock(tmp_path / "live" / "owner.json")
    assert lock.take()
    try:
        found = {run.path.name: run for run in read_material([tmp_path]).runs}
    finally:
        lock.release()
    states = {name: run.status for name, run in found.items()}
    assert states == {
        "stopped": "stopped",
        "failed": "failed",
        "crashed": "failed",
        "killed": "stopped",
        "live": "running",
        "waits": "not run",
    }
    assert found["killed"].problems == ["its process ended without recording why (training, step 1 of 8)"]


def test_the_hours_of_attempts_that_failed_are_read(tmp_path: Path) -> None:
    lines = [{"step": step, "attempt": 2, "loss": 0.5, "step_seconds": 10.0} for step in range(1, 9)]
    run = training_run(tmp_path / "run", lines=lines, gpus=["H100", "H100"], processes=2)
    slurm_attempt(run, 1, 1000.0, 1000.0 + 3600, "failed")
    slurm_attempt(run, 2, 9000.0, 9000.0 + 1800)
    tried = only(read_material([run])).attempts
    assert [(each["number"], each["seconds"], each["gpus"], each["verdict"]) for each in tried] == [
        (1, 3600.0, 2, "failed"),
        (2, 1800.0, 2, "finished"),
    ]


def test_without_a_record_an_attempt_lasted_at_least_as_long_as_its_steps(tmp_path: Path) -> None:
    lines = [{"step": step, "attempt": 1 + step // 3, "step_seconds": 100.0} for step in range(1, 6)]
    run = training_run(tmp_path / "run", lines=lines, summary={"status": "finished", "metrics": {}, "seconds": 350.0})
    tried = only(read_material([run])).attempts
    assert [each["seconds"] for each in tried] == [200.0, 300.0]
    (run / "logs" / "02").mkdir()
    (run / "logs" / "02" / "rank-0.log").write_text("")
    assert only(read_material([run])).attempts[1]["seconds"] == pytest.approx(350.0)


def test_an_evaluation_of_a_run_of_the_report_has_its_settings_and_seed(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "sweep", [["algo.beta=0.1", "seed=3"], ["algo.beta=0.2", "seed=3"]])
    (folder / "best-0a1b2c3d").symlink_to("beta-0.2_seed-3")  # as a study names the best run of a stage
    for beta, name in (("0.1", "beta-0.1_seed-3"), ("0.2", "best-0a1b2c3d")):
        made = winrate_run(tmp_path / f"winrate-{beta}")
        config = (
            (made / "config.yaml").read_text().replace("model: builtin:tiny_dpo", f"model: {folder / name / 'model'}")
        )
        (made / "config.yaml").write_text(config)
    runs = read_material([tmp_path]).of("evaluation")
    assert [(run.what, run.settings, run.seed) for run in runs] == [
        ("winrate", {"algo.beta": beta}, 3) for beta in ("0.1", "0.2")
    ]


def test_a_study_has_its_stages_what_was_chosen_and_runs_that_wait(tmp_path: Path) -> None:
    folder = study(
        tmp_path / "mine", {"sft": [["algo=sft"]], "dpo": [["algo.beta=0.1", "seed=1"], ["algo.beta=0.1", "seed=2"]]}
    )
    shutil.rmtree(folder / "dpo" / "beta-0.1_seed-2")
    material = read_material([folder])
    [about] = material.studies
    assert (about.name, list(about.stages), about.best) == (
        "mine",
        ["sft", "dpo"],
        {"dpo": folder / "dpo" / "beta-0.1_seed-1"},
    )
    assert about.tables == {"table": (folder / "table.csv").read_text()}
    assert [(run.stage, run.kind, run.status, run.seed) for run in material.runs] == [
        ("sft", "training", "finished", 1),
        ("dpo", "training", "finished", 1),
        ("dpo", "training", "not run", 2),
    ]
    assert [run.stage for run in read_material([folder / "dpo"]).runs] == ["dpo", "dpo"]


@pytest.mark.parametrize(("ending", "passed"), [("finished", True), ("refused", False), (None, None)])
def test_the_gate_of_a_study_is_an_audit(tmp_path: Path, ending: str | None, passed: bool | None) -> None:
    folder = study(tmp_path / "mine", {"sft": [["algo=sft"]]})
    listed = json.loads((folder / "cells.json").read_text())
    cell = {"name": "run", "run_dir": "audit/run", "swept": {}, "fingerprint": "f", "parent": None}
    listed["stages"]["audit"] = {"command": "audit", "best": None, "select": None, "cells": [cell]}
    (folder / "cells.json").write_text(json.dumps(listed))
    if ending:
        audit_run(folder / "audit" / "run", status=ending)
    assert read_material([folder]).studies[0].gates == {"audit": passed}


def test_one_folder_may_hold_runs_of_all_commands_and_one_run_counts_once(tmp_path: Path) -> None:
    training_run(tmp_path / "a"), winrate_run(tmp_path / "b"), reward_run(tmp_path / "c"), audit_run(tmp_path / "d")
    material = read_material([tmp_path, tmp_path / "a"])
    assert [(run.kind, run.what) for run in material.runs] == [
        ("training", "dpo"),
        ("evaluation", "winrate"),
        ("evaluation", "reward"),
        ("audit", ""),
    ]
    assert set(material.runs[1].extra["steps"]) == {"verdicts"} and set(material.runs[2].extra) == {"reliability"}


@pytest.mark.slow
def test_files_of_other_forms_give_problems_and_no_traceback(tmp_path: Path) -> None:
    environment = training_run(tmp_path / "environment", "seed=1")
    (environment / "environment.json").write_text('{"versions": [1], "gpus": 3, "processes": "two"}')
    scalar = training_run(tmp_path / "scalar", "seed=2")
    (scalar / "config.yaml").write_text("algo: 3\ndata: 4\nseed: x\nsettled: []\ncluster: 7\nmodel: 3\n")
    summary = training_run(
        tmp_path / "summary", "seed=3", summary={"status": "finished", "metrics": [1], "seconds": "x"}
    )
    (summary / "metrics.jsonl").write_bytes(b"\xff\x00\n" * 3 + b'[1]\n"text"\n{"step": "1"}\n')
    mine = study(tmp_path / "mine", {"dpo": [["seed=4"], ["seed=5"]]})
    (mine / "cells.json").write_text("{")
    made = make_report([tmp_path], Options(tmp_path / "report"))
    found = {run.path.name: run for run in made.material.runs}
    other = "cannot be read, because another version wrote it"
    assert found["environment"].problems == [f"environment: versions, gpus, processes {other}"]
    assert found["scalar"].problems == [f"config: algo, data, settled, cluster, model {other}"]
    assert found["scalar"].kind == "training"
    assert found["summary"].problems[0] == f"summary: metrics, seconds {other}"
    assert "metrics.jsonl: 6 damaged lines were skipped" in found["summary"].problems
    assert {run.path.name for run in made.material.runs if run.sweep} == {"seed-4", "seed-5"}
    [about] = made.material.studies
    assert "cells.json: is not valid JSON" in about.problems[0] and about.stages == ["dpo"]


def test_a_damaged_table_of_a_sweep_hides_no_run(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "sweep", [["seed=1"], ["seed=2"]])
    table = folder / "sweep.jsonl"
    table.write_text(table.read_text()[:-9])
    material = read_material([folder])
    assert sorted(run.title for run in material.runs) == ["seed=1", "seed=2"]
    [line] = material.problems
    assert "sweep.jsonl line 2: is damaged" in line


# Counts of an annotation directory, row by row


def test_pairs_licences_and_terms_are_counted(tmp_path: Path) -> None:
    files = annotated(tmp_path / "made", range(10), license=None)
    found = dataset_counts(files.path)
    for split in ("train", "test"):
        rows = rows_of(files.dataset / f"{split}.parquet")
        counts = found["pairs"][split]
        assert (counts["rows"], counts["clients"]) == (len(rows), len({row["ID"] for row in rows}))
        assert counts["topic"] == dict(Counter(row["topic"] for row in rows))
        means = [
            [sum(row[f"{side}_{name}_rating"] for name in PRINCIPLES) / 7 for side in ("chosen", "rejected")]
            for row in rows
        ]
        bins = Counter(
            f"{low:.1f} to below {low + 0.5:.1f}" for low in ((best - worst) // 0.5 * 0.5 for best, worst in means)
        )
        assert counts["gap"] == dict(bins)
    assert found["speeches"] == [{"source": "test", "license": None, "language": "en", "count": 10}]
    assert {(each["writer"], each["terms"], each["count"]) for each in found["replies"]} == {
        (f"writer-{number}", "apache-2.0", 10) for number in range(3)
    }


def test_what_is_not_there_is_not_counted(tmp_path: Path) -> None:
    assert dataset_counts(tmp_path) == {"pairs": {}, "speeches": [], "replies": []}
