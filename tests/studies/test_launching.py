"""`launch` in the test's own process, of studies whose runs look as if they had finished: the lock, force, and exit codes."""

from pathlib import Path
from typing import Any

import pytest

from psychocounsel.errors import CONTINUE_LATER, DONE, UserError
from psychocounsel.rundir.paths import RunDir, StudyDir
from psychocounsel.storage.files import read_mapping
from psychocounsel.storage.locks import Lock, holder
from psychocounsel.studies import launching
from psychocounsel.studies.forced_stages import ForcedStages
from psychocounsel.studies.launching import read_arguments
from psychocounsel.studies.plan import StudyErrors, StudyPlan
from psychocounsel.studies.planning import plan_study
from tests.support.small_study import finish, planned, to_run, write_study


def launch(folder: Path, *arguments: str) -> int:
    return launching.launch(
        read_arguments([f"study={write_study(folder)}", f"study_dir={folder / 'study'}", *arguments])
    )


def test_a_study_is_planned_under_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(planned(tmp_path))
    files, held = StudyDir(tmp_path / "study"), list[bool]()

    def seen(*arguments: Any) -> StudyPlan:
        held.append(holder(files.owner) is not None)
        return plan_study(*arguments)

    monkeypatch.setattr(launching, "plan_study", seen)
    assert launch(tmp_path) == DONE
    assert held == [True] and holder(files.owner) is None


def test_mistakes_leave_no_folder_behind(tmp_path: Path) -> None:
    with pytest.raises(StudyErrors):
        launch(tmp_path, f"study_dir={tmp_path}/a/b", "sft.max_steps=many")
    assert not (tmp_path / "a").exists()


def test_parallel_runs_are_refused_where_a_queue_starts_them(tmp_path: Path) -> None:
    for more in ([], ["dry_run=true"]):
        with pytest.raises(UserError, match="^parallel=2: is for runs on this machine"):
            launch(tmp_path, "parallel=2", "cluster=slurm_cpu", *more)
    assert not (tmp_path / "study").exists()


def test_a_dry_run_beside_a_launcher_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = StudyDir(tmp_path / "study")
    files.path.mkdir()
    lock = Lock(files.owner)
    assert lock.take()
    try:
        assert launch(tmp_path, "dry_run=true") == DONE
        assert "a launcher is running here: process" in capsys.readouterr().out
        with pytest.raises(UserError, match="this study is being run by process"):
            launch(tmp_path)
    finally:
        lock.release()
    assert [path.name for path in files.path.iterdir()] == []


@pytest.mark.slow
def test_the_exit_code_tells_that_the_tables_could_not_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(planned(tmp_path))
    table = tmp_path / "study/table.csv"
    table.mkdir()
    assert launch(tmp_path) != DONE
    assert "tables:" not in capsys.readouterr().out
    table.rmdir()
    assert launch(tmp_path) == DONE
    written = table.stat().st_mtime_ns
    assert launch(tmp_path) == DONE
    assert table.stat().st_mtime_ns == written, "nothing has changed"
    table.unlink()
    assert launch(tmp_path) == DONE and table.exists()


def forced(plan: StudyPlan, *stages: str) -> ForcedStages:
    """Run the part of a command with force=[STAGES] that reads and writes files before a job starts."""
    found = ForcedStages.read(plan.files).with_forced([*stages], plan.files)
    found.write(plan.files)
    return found


def test_each_force_makes_a_stage_anew_once(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    finish(plan)
    assert forced(plan, "dpo").times == {"dpo": 1}
    assert forced(plan, "dpo").times == {"dpo": 1}, "killed, it goes on"
    assert forced(plan).times == {"dpo": 1}, "also without force"
    ForcedStages.read(plan.files).ended(planned(tmp_path, "only=[sft]")).write(plan.files)
    assert forced(plan, "dpo").times == {"dpo": 1}, "a command that leaves the stage out ends nothing of it"
    ForcedStages.read(plan.files).ended(plan).write(plan.files)
    assert forced(plan, "dpo").times == {"dpo": 2}


def test_a_force_that_was_submitted_has_ended_when_nothing_of_it_is_live(tmp_path: Path) -> None:
    plan = planned(tmp_path, "force=[dpo]")
    plan.files.path.mkdir()
    forced(plan, "dpo").queued(plan).write(plan.files)
    submitted = ForcedStages.read(plan.files).submitted
    assert [run.split("/")[0] for run in submitted["dpo"]] == ["dpo", "dpo", "each_health", "each_health", "health"]
    assert forced(plan, "health").times == {"dpo": 1, "health": 1}, "another stage"
    finish(plan)
    (run_dir,) = (cell.run_dir for cell in plan.stages[-1].cells)
    RunDir(run_dir).summary.unlink()
    lock = Lock(RunDir(run_dir).owner)
    assert lock.take()
    try:
        assert forced(plan, "dpo").times["dpo"] == 1, "typed again while the last run works"
    finally:
        lock.release()
    assert forced(plan, "dpo").times["dpo"] == 2


@pytest.mark.slow
def test_a_finished_study_forces_anew_and_goes_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(planned(tmp_path))
    plans = list[StudyPlan]()

    def killed(plan: StudyPlan, *_: Any) -> tuple[int, set[Path]]:
        plans.append(plan)
        return CONTINUE_LATER, set()

    with monkeypatch.context() as patch:
        patch.setattr(launching, "run_here", killed)
        for _ in range(2):
            assert launch(tmp_path, "force=[health]") == CONTINUE_LATER
    assert [to_run(plan) for plan in plans] == [["health/run_2"]] * 2
    finish(plans[-1])
    assert launch(tmp_path) == DONE
    assert read_mapping(plans[-1].files.forced)["times"] == {"health": 1}
    with monkeypatch.context() as patch:
        patch.setattr(launching, "run_here", killed)
        launch(tmp_path, "force=[health]")
    assert to_run(plans[-1]) == ["health/run_3"]


def test_a_stage_that_is_left_out_cannot_be_forced(tmp_path: Path) -> None:
    with pytest.raises(StudyErrors, match="force=health: only or start_at leaves this stage out; add it to only"):
        planned(tmp_path, "only=[sft]", "force=[health]")
    with pytest.raises(StudyErrors) as refused:
        planned(tmp_path, "only=[health]", "force=[sft,dpo,each_health]")
    named = [line.partition(":")[0] for line in refused.value.lines]
    assert named == ["force=sft", "force=dpo", "force=each_health"], "in the order in which they were typed"
