"""`jobs list` and `jobs forget` of local runs, grouping of reasons, and shell variables that sbatch would read."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

import pytest

from psychocounsel.cluster import logs
from psychocounsel.cluster.base import NoAnswer
from psychocounsel.cluster.resubmission import forget, resubmit
from psychocounsel.cluster.slurm.queue import for_sbatch
from psychocounsel.cluster.states import Row, ranges, reasons, rows, rows_of, table, watch
from psychocounsel.errors import UserError
from psychocounsel.rundir.owner import ownership
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.results import write_summary
from psychocounsel.rundir.run import note_attempt
from psychocounsel.rundir.run_config import write_config, write_job
from psychocounsel.rundir.sweep import ListedRun, add_to_table, remove_from_table, runs_of
from psychocounsel.train import COMMAND as TRAIN
from tests.support.composed import check, compose
from tests.support.harness import cli


def test_runs_with_the_same_reason_stand_in_one_line() -> None:
    found = [Row(number, Path("r"), "", "pending", reason="Priority") for number in range(200)]
    found[7] = Row(7, Path("r"), "", "failed", reason="wrong input")
    found[9].reason = ""
    assert reasons(found, [str(row.index) for row in found]) == [
        "0-6, 8, 10-199: pending: Priority",
        "7: failed: wrong input",
    ]
    assert ranges(["dpo/1", "dpo/2", "", "3"]) == "dpo/1, dpo/2, , 3"


def test_only_who_pays_is_taken_from_the_shell_and_only_where_it_is_open() -> None:
    shell = {"PATH": "/bin", "SLURM_CONF": "c", "SLURM_JOB_ID": "7", "SBATCH_ACCOUNT": "a", "SBATCH_QOS": "q"}
    shell |= {
        "SBATCH_TIMELIMIT": "1",
        "SLURM_GPUS_PER_NODE": "8",  # of an allocation: srun in the job would ask for 8 GPUs
        "SQUEUE_PARTITION": "gpu",  # squeue would hide jobs of other partitions
        "SCANCEL_INTERACTIVE": "1",
    }
    kept, said = for_sbatch(shell, "#!/bin/bash\n#SBATCH --qos=mine\n")
    assert kept == {"PATH": "/bin", "SLURM_CONF": "c", "SBATCH_ACCOUNT": "a"}
    assert [line.split(" ")[0] for line in said] == ["cluster.account", "SBATCH_QOS", "SBATCH_TIMELIMIT"]


@pytest.mark.slow
def test_runs_are_listed_and_those_that_made_nothing_can_be_forgotten(tmp_path: Path) -> None:
    broken = ["data.limit=4", "max_steps=1", "run_dir=runs/one", "global_batch_size=64", "checkpoint.metric=eval/none"]
    cli("train", *broken[:3], "dry_run=true", cwd=tmp_path)
    cli("audit", "run_dir=runs/deep/audit", "limit=40", cwd=tmp_path)
    done = cli("jobs", "list", cwd=tmp_path, PSYCHOCOUNSEL_OUTPUT="runs")
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["what", "runs", "folder"],
        ["run", "1", "finished", "runs/deep/audit"],
    ]
    assert cli("jobs", "status", "runs", cwd=tmp_path).stdout == done.stdout
    log = (tmp_path / "runs/deep/audit/logs/01/rank-0.log").read_text()  # rank 0 printed on the terminal
    assert log and cli("jobs", "logs", "runs/deep/audit", cwd=tmp_path).stdout == log
    refused = cli("jobs", "forget", "runs/deep/audit", cwd=tmp_path, check_code=2)
    assert "has results" in refused.stderr and (tmp_path / "runs/deep/audit/audit.json").exists()
    (tmp_path / "empty").mkdir()
    assert "contains no run, sweep or study" in cli("jobs", "list", "empty", cwd=tmp_path, check_code=2).stderr


def test_a_forgotten_run_leaves_its_folder_and_its_line_and_others_keep_their_index(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("a", "b", "c")]
    for number, run in enumerate(runs):
        run.mkdir()
        write_job(run, "psychocounsel.train", number, [])
        write_config(run, check(compose([f"run_dir={run}"])))
    add_to_table(tmp_path, [(run, [f"seed={number}"]) for number, run in enumerate(runs)])
    with pytest.raises(UserError, match="name the runs to forget by their indices"):
        forget(tmp_path, [])
    (runs[0] / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="has results"):
        forget(tmp_path, [0, 1])
    assert runs[1].exists()
    (runs[1] / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="contains notes.txt, which no run writes"):
        forget(tmp_path, [1])
    (runs[1] / "notes.txt").unlink()
    forget(tmp_path, [1])
    assert [(run.index, run.run_dir.name) for run in runs_of(tmp_path)] == [(0, "a"), (2, "c")] and not runs[1].exists()
    with pytest.raises(UserError, match=r"no index 1: the runs have the indices 0, 2$"):
        logs.run_of(tmp_path, 1)
    with pytest.raises(UserError, match=r"no index 1: the runs have the indices 0, 2$"):
        resubmit(tmp_path, [1], [])
    add_to_table(tmp_path, [(runs[1], ["seed=9"])])
    assert [run.index for run in runs_of(tmp_path)] == [0, 2, 3]
    with pytest.raises(UserError, match="contains 3 runs: give one of the indices 0, 2-3"):
        logs.run_of(tmp_path, None)
    remove_from_table(tmp_path, runs)
    with pytest.raises(UserError, match="contains no run; all were forgotten"):
        logs.run_of(tmp_path, None)


def test_a_run_forgotten_by_its_own_folder_leaves_the_table_of_its_sweep(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("a", "b")]
    for number, run in enumerate(runs):
        run.mkdir()
        write_job(run, "psychocounsel.train", number, [])
        write_config(run, check(compose([f"run_dir={run}"])))
    add_to_table(tmp_path, [(run, []) for run in runs])
    forget(runs[0], [])
    assert [(row.index, row.run_dir) for row in rows(tmp_path)] == [(1, runs[1])]


def test_followed_logs_end_with_their_attempt_and_keep_every_letter(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A live run writes half of a letter, then the rest with its last line, and begins its next attempt."""
    write_job(tmp_path, "psychocounsel.train", 0, [])
    write_config(tmp_path, check(compose([f"run_dir={tmp_path}"])))
    output, letter = RunDir(tmp_path).attempt(1).output(0), "ü".encode()
    output.parent.mkdir(parents=True)
    output.write_bytes(b"f" + letter[:1])

    def write() -> None:
        time.sleep(0.7)
        with open(output, "ab") as file:
            file.write(letter[1:] + b"nf\nlast\n")
        RunDir(tmp_path).attempt(2).path.mkdir()

    with ownership(tmp_path):
        writer = Thread(target=write)
        writer.start()
        logs.show(tmp_path, None, 0, 1, follow=True)
        writer.join()
        assert capfd.readouterr().out == "fünf\nlast\n"
        RunDir(tmp_path).attempt(2).output(0).touch()
        monkeypatch.setattr(logs, "_LATE_SECONDS", 0.1)
        with pytest.raises(UserError, match=r"rank-7.out: no such file; available: rank-0.out"):
            logs.show(tmp_path, None, 7, None, follow=True)


def test_followed_logs_show_what_is_written_until_the_run_is_known_to_have_ended(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_job(tmp_path, "psychocounsel.train", 0, [])
    write_config(tmp_path, check(compose([f"run_dir={tmp_path}"])))
    output = RunDir(tmp_path).attempt(1).output(0)
    output.parent.mkdir(parents=True)

    def rows_after_a_last_line(listed: Sequence[ListedRun]) -> list[Row]:
        output.write_text("last\n")
        write_summary(tmp_path, "finished")
        return rows_of(listed)

    def silent(listed: Sequence[ListedRun]) -> list[Row]:
        monkeypatch.setattr(logs, "rows_of", rows_after_a_last_line)
        raise NoAnswer("squeue gave no answer")

    monkeypatch.setattr(logs, "_ASK_SECONDS", 0.0)
    monkeypatch.setattr(logs, "rows_of", silent)
    logs.show(tmp_path, None, 0, None, follow=True)
    assert capfd.readouterr() == ("last\n", "[finished]\n")


def test_logs_end_with_why_the_run_ended_and_tell_it_where_an_attempt_wrote_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_job(tmp_path, "psychocounsel.train", 0, [])
    write_config(tmp_path, check(compose([f"run_dir={tmp_path}"])))
    attempts, reason = [RunDir(tmp_path).attempt(number) for number in (1, 2)], "crashed: no node"
    attempts[0].path.mkdir(parents=True)
    attempts[0].output(0).write_text("first\n")
    note_attempt(attempts[0], job="7", started=1.0, ended=2.0, verdict="failed", reason=reason)
    logs.show(tmp_path, None, 0, None, follow=False)
    assert capfd.readouterr() == ("first\n", f"[failed] {reason}\n")
    logs.show(tmp_path, None, 0, 1, follow=False)
    assert capfd.readouterr() == ("first\n", "")
    for number in (0, 2):
        with pytest.raises(UserError, match=f"no attempt {number}; the last is 1"):
            logs.show(tmp_path, None, 0, number, follow=False)
    attempts[1].path.mkdir()
    note_attempt(attempts[1], job="7", started=3.0, ended=4.0, verdict="failed", reason=reason)
    with pytest.raises(UserError, match=rf"02/rank-0.out: no such file; available: none; the run: \[failed\] {reason}"):
        logs.show(tmp_path, None, 0, None, follow=False)


def test_a_watch_goes_on_while_the_cluster_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    answers = [NoAnswer("squeue gave no answer"), ("1 finished", False)]

    def show() -> tuple[str, bool]:
        if isinstance(answer := answers.pop(0), NoAnswer):
            raise answer
        return answer

    watch(Path("runs"), 0.0, show)
    said = capsys.readouterr().out
    assert "squeue gave no answer; still waiting\n" in said and said.endswith("\n\n1 finished\n")


def test_a_cpu_build_of_torch_and_a_full_disk_are_told_before_jobs_wait_for_them(tmp_path: Path) -> None:
    from psychocounsel.cluster.job import Job
    from psychocounsel.cluster.slurm.shortages import is_cpu_build, warnings_of
    from tests.support.composed import check, compose

    def said(*overrides: str) -> list[str]:
        return warnings_of([Job(TRAIN, check(compose(["cluster=slurm", *overrides])), tmp_path)])

    assert is_cpu_build()
    assert said() and said()[0].startswith("warning: torch of this environment is a CPU build")
    assert not said("cluster.device=cpu") and not said("cluster.python=/opt/python")


def test_a_table_of_somebody_else_cannot_have_other_folders_removed(tmp_path: Path) -> None:
    from psychocounsel.cluster.resubmission import forget
    from psychocounsel.rundir.run_config import write_config, write_job
    from tests.support.composed import check, compose

    sweep, plain, run = tmp_path / "sweep", tmp_path / "plain", tmp_path / "run"
    for folder in (sweep, plain, run):
        folder.mkdir()
    write_job(run, "psychocounsel.train", 0, [])
    write_config(run, check(compose([f"run_dir={run}"])))
    (sweep / "link").symlink_to(run)
    lines = [{"index": n, "overrides": [], "run_dir": name} for n, name in enumerate(("../plain", "../run", "link"))]
    (sweep / "sweep.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for index in range(3):
        with pytest.raises(UserError, match="is not a run in .*; nothing was removed"):
            forget(sweep, [index])
    assert plain.is_dir() and run.is_dir()


def test_commands_of_folders_with_signs_and_spaces_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from psychocounsel import jobs

    monkeypatch.chdir(tmp_path)
    for name in ("lr=1", "a b"):
        (tmp_path / name).mkdir()
        write_job(tmp_path / name, "psychocounsel.train", 0, [])
        write_config(tmp_path / name, check(compose([f"run_dir='{tmp_path / name}'"])))
        write_summary(tmp_path / name, "stopped")
    assert jobs.main(["status", "lr=1"]) == jobs.main(["status", str(tmp_path / "lr=1")]) == 0
    assert jobs.main(["status", "a b"]) == 0
    told = "to resume: the same command again; its overrides are in 'a b/overrides.txt'\n"
    assert capsys.readouterr().out.endswith(told), "a run on this machine has no queue to submit it to"
    stopped = Row(0, tmp_path / "a b", "", "stopped")
    assert table([stopped], Path("a b")).endswith("to resume them: psychocounsel jobs resubmit 'a b'")
    for text in ("lr=2", "+cluster.sbatch.mail-type=ALL", "cluster.setup=['a/b']", f"cluster.account={'a' * 300}"):
        with pytest.raises(UserError, match="only resubmit takes KEY=VALUE"):
            jobs.main(["status", "lr=1", text])
