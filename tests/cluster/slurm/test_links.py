"""Arrays and dependencies of a study's jobs are compared with their meaning for SLURM. No SLURM runs."""

import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from psychocounsel.cluster.base import NoAnswer
from psychocounsel.cluster.job import Job
from psychocounsel.cluster.slurm import submitting
from psychocounsel.cluster.slurm.array_request import ArrayRequest, segment_options
from psychocounsel.cluster.slurm.queue import QueuedRun, Task
from psychocounsel.cluster.slurm.request import SlurmRequest
from psychocounsel.cluster.slurm.study_chain import Link, Part, Place, TaskBatch, parts
from psychocounsel.errors import CONTINUE_LATER, GATE_NO, GATE_UNDECIDED, UserError
from psychocounsel.rundir.paths import RunDir, StudyDir, SubmissionDir
from psychocounsel.rundir.results import write_summary
from psychocounsel.rundir.run import note_attempt
from psychocounsel.rundir.run_config import write_job
from psychocounsel.rundir.submissions import Record
from psychocounsel.rundir.sweep import add_to_table, remove_from_table
from psychocounsel.train import COMMAND as TRAIN
from tests.support.composed import check, compose


def waits_for(part: Part, index: int) -> set[Place]:
    """Return the tasks that a task of an array waits for, by SLURM's rules."""
    found: set[Place] = set()
    for link in part.links:
        if link.kind == "aftercorr":
            assert len(part.tasks) == link.batch.size, "arrays of equal length"
            found.add((link.batch, index))
        else:
            tasks = link.tasks or range(link.batch.size)
            assert link.tasks or link.batch.is_new, "others of an earlier array may have failed"
            found |= {(link.batch, task) for task in tasks}
    return found


def submitted(size: int, job: int = 7, new: bool = True) -> TaskBatch:
    return TaskBatch(size, [str(job)], new)


@pytest.mark.parametrize("seed", range(60))
def test_every_task_waits_for_what_its_jobs_need_and_for_nothing_else(seed: int) -> None:
    draw = random.Random(seed)
    batches = [submitted(draw.choice([1, 2, 3, 6]), new=draw.random() < 0.7) for _ in range(draw.randint(1, 4))]
    every = [(batch, task) for batch in batches for task in range(batch.size)]
    regular = draw.random() < 0.5  # as for_each gives it, in any order
    count = draw.randint(1, 12)
    needs = [
        ({every[job % len(every)]} if regular else set(draw.sample(every, draw.randint(0, min(3, len(every))))))
        for job in range(count)
    ]
    draw.shuffle(needs)
    group, after_any = draw.choice([1, 1, 2, 3]), draw.random() < 0.3
    found = parts(needs, group, after_any)
    assert sorted(job for part in found for task in part.tasks for job in task) == list(range(count))
    for part in found:
        assert {link.kind for link in part.links} <= ({"afterany"} if after_any else {"afterok", "aftercorr"})
        for index, task in enumerate(part.tasks):
            assert len(task) <= group
            assert waits_for(part, index) == set().union(*(needs[job] for job in task))


def test_a_stage_over_the_cells_of_another_waits_index_by_index_in_one_array() -> None:
    cells, base = submitted(9, 12), submitted(1, 11)
    needs: list[set[Place]] = [{(cells, 8 - number), (base, 0)} for number in range(9)]
    (part,) = parts(needs)
    assert [job for (job,) in part.tasks] == [8, 7, 6, 5, 4, 3, 2, 1, 0], "in the order of the tasks that they need"
    assert {link.text() for link in part.links} == {"aftercorr:12", "afterok:11"}


def test_several_settings_for_each_cell_are_an_array_each_and_few_cells_are_not_split_further() -> None:
    cells = submitted(6)
    assert [len(part.tasks) for part in parts([{(cells, job // 2)} for job in range(12)])] == [6, 6]
    two = submitted(2)
    assert [[link.text() for link in part.links] for part in parts([{(two, job // 3)} for job in range(6)])] == [
        ["afterok:7_0"],
        ["afterok:7_1"],
    ]


def test_jobs_that_need_the_same_are_one_array() -> None:
    first, second = submitted(3, 4), submitted(2, 5)
    every: set[Place] = {(first, 0), (first, 1), (first, 2), (second, 1)}
    (part,) = parts([every] * 5)
    assert len(part.tasks) == 5 and [link.text() for link in part.links] == ["afterok:4", "afterok:5_1"]
    (table,) = parts([every], after_any=True)
    assert [link.text() for link in table.links] == ["afterany:4", "afterany:5_1"]
    (free,) = parts([set(), set()])
    assert len(free.tasks) == 2 and not free.links


def test_what_an_earlier_command_submitted_is_named_by_its_tasks() -> None:
    earlier = submitted(3, 9, new=False)
    (part,) = parts([{(earlier, 0), (earlier, 1), (earlier, 2)}])
    assert [link.text() for link in part.links] == ["afterok:9_0:9_1:9_2"]
    (corresponding,) = parts([{(earlier, task)} for task in range(3)])
    assert [link.text() for link in corresponding.links] == ["aftercorr:9"]
    rest = parts([{(earlier, 0)}, {(earlier, 2)}, set()])
    assert sorted(link.text() for part in rest for link in part.links) == ["afterok:9_0", "afterok:9_2"]


def test_runs_that_share_jobs_wait_for_jobs_that_are_shared_alike() -> None:
    shared = submitted(3)  # of four runs each
    (part,) = parts([{(shared, job // 4)} for job in range(12)], group=4)
    assert part.tasks == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert [link.kind for link in part.links] == ["aftercorr"]


def test_a_link_names_the_last_of_a_chain_of_segments() -> None:
    assert Link("afterok", TaskBatch(2, ["5", "6", "7"]), (1,)).text() == "afterok:7_1"
    assert Link("afterok", TaskBatch(1, ["5", "6"]), (0,)).text() == "afterok:6"


def test_every_segment_waits_for_what_the_first_one_waits_for() -> None:
    array = ArrayRequest(SlurmRequest(requeue=False, segments=3), [[]], dependency="aftercorr:12,afterok:11_2")
    assert segment_options(array) == [], "the script says it"
    array.ids = ["20", "21"]
    waits = "--dependency=afterany:21,aftercorr:12,afterok:11_2"
    assert segment_options(array) == [waits, "--kill-on-invalid-dep=yes"]
    array.dependency = ""
    assert segment_options(array) == ["--dependency=afterany:21", "--kill-on-invalid-dep=yes"]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for number, name in enumerate("abc"):
        (tmp_path / name).mkdir()
        write_job(tmp_path / name, "psychocounsel.train", number, [])
    add_to_table(tmp_path, [(tmp_path / name, []) for name in "abc"])
    return tmp_path


def record(job: str, *runs: Path) -> Record:
    return Record([job], [[run] for run in runs], [], SubmissionDir(Path()))


def queued(*records: Record) -> dict[Path, QueuedRun]:
    """Return the newest submission of each run, as if all of them waited."""
    return {
        run: QueuedRun(each, index, Task(each.jobs[-1], index if each.is_array else None, "PENDING", "", ""))
        for each in records
        for index, (run,) in enumerate(each.tasks)
    }


def test_an_array_whose_runs_read_other_indices_waits_for_all(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = (sweep / name for name in "abc")
    monkeypatch.setattr(submitting, "queued_runs", lambda place: queued(record("7", a, b, c)))

    def reads(*paths: Path) -> list[list[Any]]:
        configs = [OmegaConf.create({"model": {"path": f"{path}/model"}}) for path in paths]
        return [
            [SimpleNamespace(index=index, config=config, after=[str(sweep)])] for index, config in enumerate(configs)
        ]

    assert not submitting.reads_other_runs(reads(a, b, c)) and not submitting.reads_other_runs(
        reads(sweep.parent / "x")
    )
    for tasks in (reads(b, b, b), reads(b, a, c), reads(a, b, sweep / "best")):
        assert submitting.reads_other_runs(tasks)
    assert submitting.dependency([str(sweep)], [[0], [1], [2]], crosses=True) == "afterok:7"


def test_an_array_waits_index_by_index_only_for_runs_of_the_same_indices(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = (sweep / name for name in "abc")

    def after(*tasks: list[int]) -> str:
        return submitting.dependency([str(sweep)], tasks)

    monkeypatch.setattr(submitting, "queued_runs", lambda place: queued(record("7", a, b, c)))
    assert after([0], [1], [2]) == "aftercorr:7" and after([0], [1]) == "afterok:7"
    write_summary(a, "finished")
    monkeypatch.setattr(submitting, "queued_runs", lambda place: queued(record("7", a, b, c), record("8", b, c)))
    assert after([1], [2]) == "aftercorr:8"
    assert after([0], [1]) == "afterok:8", "otherwise the second would start after the second run, and need the first"
    monkeypatch.setattr(submitting, "queued_runs", lambda place: queued(record("7", a, b)))
    with pytest.raises(UserError, match=f"after={c}: was not submitted to SLURM and is not finished"):
        after([0])
    write_summary(b, "finished")
    write_summary(c, "finished")
    monkeypatch.setattr(submitting, "queued_runs", lambda place: {})
    assert after([0]) == "", "all have finished, for instance on this machine"


def test_an_array_with_a_failed_run_that_was_submitted_again_is_named_by_its_other_tasks(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = (sweep / name for name in "abc")
    monkeypatch.setattr(submitting, "queued_runs", lambda place: queued(record("7", a, b, c), record("8", a)))
    expected = "afterok:8:7_1:7_2"  # afterok:7 would never come true
    assert submitting.dependency([str(sweep)], [[0]]) == expected
    assert submitting.dependency([str(a), str(b), str(c)], [[0]]) == expected
    assert submitting.dependency([str(b)], [[0]]) == "afterok:7_1"
    write_summary(a, "finished")
    each = [[0], [1], [2]]
    assert submitting.dependency([str(sweep)], each) == "afterok:7_1:7_2", "aftercorr:7 would cancel the first"
    elsewhere = queued(record("7", a, b, c))  # finished on another cluster after its task had failed
    elsewhere[a] = replace(elsewhere[a], task=Task("7", 0, "FAILED", "", ""))
    monkeypatch.setattr(submitting, "queued_runs", lambda place: elsewhere)
    assert submitting.dependency([str(sweep)], each) == "afterok:7_1:7_2"
    elsewhere[c] = replace(elsewhere[c], task=Task("7", 2, "CANCELLED", "", ""))
    with pytest.raises(UserError, match="c: has ended unfinished"):
        submitting.dependency([str(sweep)], each)
    remove_from_table(sweep, [c])  # `jobs forget`
    assert submitting.dependency([str(sweep)], each) == "afterok:7_1"


def test_a_failed_choice_of_a_studys_stage_is_repeated_by_the_studys_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = tmp_path / "stage" / "select-1"
    chosen.mkdir(parents=True)
    write_job(chosen, "psychocounsel.launch", 0, [])
    add_to_table(chosen.parent, [])
    StudyDir(tmp_path).study.touch()
    ended = QueuedRun(record("7", chosen), 0, Task("7", None, "CANCELLED", "", ""))
    monkeypatch.setattr(submitting, "queued_runs", lambda place: {chosen: ended})
    with pytest.raises(UserError, match=f"after={chosen}: has ended unfinished; repeat the study's command"):
        submitting.dependency([str(chosen)], [[0]])


def test_a_wait_survives_a_restart_of_slurms_controller(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [
        NoAnswer("squeue gave no answer"),
        NoAnswer("squeue gave no answer"),
        queued(record("7", sweep / "a")),
        {},
    ]

    def ask(*places: Path) -> dict[Path, QueuedRun]:
        answer = answers.pop(0)
        if isinstance(answer, NoAnswer):
            raise answer
        return answer

    monkeypatch.setattr(submitting, "queued_runs", ask)
    monkeypatch.setattr(submitting, "_POLL_SECONDS", 0.0)
    write_summary(sweep / "a", "finished", metrics={})
    config = check(compose(["cluster=slurm", f"run_dir={sweep / 'a'}"]))
    assert submitting.wait([Job(TRAIN, config, sweep / "a")], sweep).exit_code == 0 and not answers
    assert capsys.readouterr().err.count("squeue gave no answer; still waiting") == 1


def test_a_wait_ends_with_the_exit_code_of_the_runs(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(submitting, "queued_runs", lambda *places: {})
    config = check(compose(["cluster=slurm"]))
    jobs = [Job(TRAIN, config, sweep / name) for name in "abc"]

    def ended(run: Path, code: int) -> None:
        attempt = RunDir(run).attempt(1)
        attempt.path.mkdir(parents=True)
        note_attempt(attempt, started=1.0, ended=2.0, code=code, verdict="failed", reason="node1 was lost")

    write_summary(sweep / "a", "finished", metrics={})
    ended(sweep / "b", GATE_UNDECIDED)
    assert submitting.wait(jobs[:2], sweep).exit_code == GATE_UNDECIDED
    assert submitting.wait(jobs, sweep).exit_code == 1, "the third never started"
    said = capsys.readouterr().err.splitlines()
    assert said[-2:] == [
        f"{sweep / 'b'}: node1 was lost (exit code 4)",
        f"error: {sweep / 'c'}: not submitted (exit code 1)",
    ]
    ended(sweep / "c", GATE_NO)
    assert submitting.wait(jobs, sweep).exit_code == GATE_NO


def test_a_wait_for_a_job_that_died_before_its_attempt_began_ends_with_the_jobs_own_error(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The attempt of job 7 stopped; then its requeued job 7, or the resubmitted job 8, died in its set-up."""
    run, jobs = sweep / "a", [Job(TRAIN, check(compose(["cluster=slurm"])), sweep / "a")]
    attempt = RunDir(run).attempt(1)
    attempt.path.mkdir(parents=True)
    about = {
        "job": "7",
        "started": 1.0,
        "ended": 2.0,
        "code": CONTINUE_LATER,
        "verdict": "stopped",
        "reason": "stopped",
    }
    note_attempt(attempt, **about)
    died = {"7": "stopped; the job ended before its next attempt began", "8": "never started (failed)"}
    for job, reason in died.items():
        note_attempt(attempt, requeued=job == "7", signal="USR1" if job == "7" else "TERM")
        files = SubmissionDir(sweep / job)
        files.path.mkdir()
        files.job_log(job).write_text("conda: command not found\n")
        known = {run: QueuedRun(Record([job], [[run]], [], files), 0, Task(job, None, "FAILED", "", ""))}
        monkeypatch.setattr(submitting, "queued_runs", lambda *places, known=known: known)
        assert submitting.wait(jobs, sweep).exit_code == 1
        said = f"error: {run}: {reason}: conda: command not found (exit code 1)"
        assert capsys.readouterr().err.splitlines()[-1] == said
