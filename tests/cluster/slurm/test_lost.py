"""Submissions of killed commands are repaired, and concurrent commands submit in turn. A fake squeue prints given jobs."""

import json
import os
import time
from collections.abc import Sequence
from multiprocessing.queues import Queue
from pathlib import Path

import pytest

from psychocounsel.cluster.slurm.queue import find_lost
from psychocounsel.cluster.slurm.queue import submit as submit_script
from psychocounsel.rundir import submissions
from psychocounsel.rundir.paths import StudyDir, SubmissionDir, SubmissionHome
from psychocounsel.rundir.sweep import add_to_table
from psychocounsel.settings.config import build
from psychocounsel.storage.locks import Lock
from tests.support.composed import compose
from tests.support.processes import FORKED


def lost(home: Path, runs: Sequence[str] = ("a", "b")) -> SubmissionDir:
    """Return the submission that a command leaves behind if it is killed while it calls sbatch."""
    made = submissions.new_submission(home)
    made.script.write_text("#!/bin/bash\n")
    submissions.write(made, home, [], [[home / run] for run in runs], [home / "code" / "x"])
    return made


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file whose content squeue prints: ids and scripts of jobs."""
    said, tools = tmp_path / "said", tmp_path / "tools"
    tools.mkdir()
    (tools / "squeue").write_text(f"#!/bin/sh\nexec cat {said}\n")
    (tools / "squeue").chmod(0o755)
    said.write_text("")
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    return said


def test_a_job_that_runs_our_script_is_noted_and_what_has_none_is_removed(tmp_path: Path, queue: Path) -> None:
    home = tmp_path / "a sweep"
    first, never, begun, known = (lost(home) for _ in range(4))
    queue.write_text(f"9|/elsewhere/job.sbatch\n12|{first.script}\n7|{first.script}\n12|{first.script}\n")
    (begun.path / "slurm-31_1.out").touch()
    submissions.adopt(known, ["5"])
    assert [record.jobs for record in submissions.read(home)] == [["5"]]
    find_lost([home])
    assert [record.jobs for record in submissions.read(home)] == [["7", "12"], ["31"], ["5"]], "all links of a chain"
    assert submissions.read(home)[0].tasks == [[home / "a"], [home / "b"]]
    assert not never.path.exists() and not SubmissionHome(home).lock.exists()
    queue.unlink()
    find_lost([home])  # SLURM is not asked, because nothing is missing


def test_nothing_is_touched_while_a_live_process_submits(tmp_path: Path, queue: Path) -> None:
    made = lost(tmp_path / "sweep")
    other = Lock(SubmissionHome(tmp_path / "sweep").lock)
    assert other.take()
    find_lost([tmp_path / "sweep"])
    assert made.path.exists()
    other.release()
    find_lost([tmp_path / "sweep"])
    assert not made.path.exists()


def submit(home: Path, results: "Queue[tuple[float, float]]", gate: object) -> None:
    gate.wait()  # type: ignore[attr-defined]
    with submissions.submitting(home), submissions.submitting(home):
        began = time.monotonic()
        time.sleep(0.2)
        results.put((began, time.monotonic()))


@pytest.mark.slow
def test_commands_submit_in_turn_and_stages_share_the_turn_of_their_study(tmp_path: Path) -> None:
    StudyDir(tmp_path).study.write_text("stages: {}\n")
    homes = [tmp_path, tmp_path / "sft", tmp_path / "dpo", tmp_path / "dpo"]
    for home in homes:
        home.mkdir(exist_ok=True)
    results, gate = FORKED.Queue(), FORKED.Barrier(len(homes))
    processes = [FORKED.Process(target=submit, args=(home, results, gate)) for home in homes]
    for process in processes:
        process.start()
    turns = sorted(results.get(timeout=120) for _ in homes)
    for process in processes:
        process.join()
    assert all(turns[number][1] <= turns[number + 1][0] for number in range(len(turns) - 1))
    assert not list(tmp_path.rglob("submitting.json"))


def test_a_record_names_code_that_lies_above_its_home(tmp_path: Path) -> None:
    made = submissions.new_submission(tmp_path / "sft")
    submissions.write(made, tmp_path / "sft", ["3"], [[tmp_path / "sft" / "run"]], [tmp_path / "code" / "x"])
    assert json.loads(made.record.read_text())["code"] == ["../code/x"]


@pytest.mark.parametrize("preset", ["slurm", "slurm_cpu", "slurm_whole_node", "slurm_no_requeue", "local"])
def test_the_smallest_job_of_a_cluster_is_one_process_without_gpu(preset: str) -> None:
    config = compose([f"cluster={preset}"])
    light = build(config, "cluster").light()
    assert light.keys() <= config.cluster.keys()
    config.cluster.update(light)
    cluster = build(config, "cluster")
    cluster.check()
    assert (cluster.process_count(), cluster.gpus()) == (1, 0)


def test_the_smallest_job_keeps_the_sites_form_of_memory_and_no_options_of_gpus() -> None:
    given = ["cluster.sbatch={gpu-bind: none, licenses: scratch}", "cluster.memory=9G"]
    for unit, kept in (("node", "node"), ("gpu", "cpu"), ("cpu", "cpu")):
        light = build(compose(["cluster=slurm", *given, f"cluster.memory_per={unit}"]), "cluster").light()
        assert (light["memory_per"], light["sbatch"]) == (kept, {"licenses": "scratch"})


def test_cancelling_a_run_names_the_runs_that_share_its_job(
    tmp_path: Path, queue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, (scancel, called) = tmp_path / "sweep", (tmp_path / "tools" / "scancel", tmp_path / "called")
    runs = [sweep / name for name in "abcd"]
    scancel.write_text(f'#!/bin/sh\necho "$@" > {called}\n')
    scancel.chmod(0o755)
    sweep.mkdir()
    add_to_table(sweep, [(run, []) for run in runs])
    submissions.write(submissions.new_submission(sweep), sweep, ["12"], [runs[:2], runs[2:]], [])
    queue.write_text("12|0|RUNNING|None|node1\n12|1|PENDING|Priority|\n")
    build(compose(["cluster=slurm"]), "cluster").cancel([runs[1]])
    assert called.read_text() == "12_0\n"
    assert capsys.readouterr().out == "with them, because they share jobs (cluster.runs_per_job): a\n"


@pytest.mark.parametrize(
    "printed",
    [
        "12",
        "12;cluster",
        "Submitted batch job 12 on cluster c1",
        "-- verified --\nSubmitted batch job 12\nThank you",
        "12\n",
    ],
)
def test_the_number_of_a_job_is_found_among_the_lines_of_a_sites_wrapper(
    printed: str, tmp_path: Path, queue: Path
) -> None:
    (tmp_path / "tools" / "sbatch").write_text(f"#!/bin/sh\ncat <<END\n{printed}\nEND\n")
    (tmp_path / "tools" / "sbatch").chmod(0o755)
    assert submit_script(tmp_path / "job.sbatch") == "12"
