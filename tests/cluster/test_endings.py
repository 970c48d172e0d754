"""Causes of ended attempts: lines of logs, verdicts, and attempts without progress."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from psychocounsel.cluster.attempt_ending import (
    STOP_FILE,
    AttemptEnding,
    AttemptVerdict,
    judge,
    last_error,
    progress_mark,
)
from psychocounsel.cluster.base import QueueState
from psychocounsel.cluster.rank import _served
from psychocounsel.cluster.states import row_of
from psychocounsel.errors import GoOnLater, UserError
from psychocounsel.remote.client import NoServerLeft
from psychocounsel.rundir.manifest import write_manifest
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.run import note_attempt
from psychocounsel.rundir.run_config import write_job
from psychocounsel.rundir.sweep import ListedRun

DIED = "/var/job/script: line 9: no_such_command: command not found"


def verdict(
    code: int, step: int, *before: dict[str, Any], restarts: int = 0, most: int = 20, **ended: Any
) -> AttemptVerdict:
    return judge(AttemptEnding(code, step, **ended), before, restarts, most)


def crashed(step: int, reason: str = "") -> dict[str, Any]:
    return {"verdict": "crashed", "step": step, "reason": reason}


def test_what_follows_each_exit_code() -> None:
    assert verdict(0, 9) == AttemptVerdict("finished", False, "finished")
    assert verdict(2, 0, words="error: data.path: no such file") == AttemptVerdict(
        "failed", False, "wrong input (exit code 2): error: data.path: no such file"
    )
    for limit, reason in (
        ("guarded", "a `guard` limit stopped the run at step 4"),
        ("refused", "the gate refused"),
        ("budget spent", "the budget is spent"),
    ):
        assert verdict(3, 4, words=limit) == AttemptVerdict("failed", False, f"{reason} (exit code 3)")
    assert verdict(4, 0) == AttemptVerdict("failed", False, "a gate could not decide (exit code 4)")
    assert verdict(75, 4, stop_signal="USR1") == AttemptVerdict("stopped", True, "stopped at step 4 (USR1)")
    assert verdict(137, 4) == AttemptVerdict("crashed", True, "crashed at step 4 (exit code 137)")
    assert verdict(75, 4, stop_signal=STOP_FILE) == AttemptVerdict("stopped", False, "stopped at step 4 (stop file)")
    assert verdict(75, 4, restarts=3, most=3).goes_on is False
    assert verdict(1, 4, restarts=3, most=3).reason.endswith("not requeued: cluster.max_requeues=3")


def test_a_crash_is_tried_again_once_unless_it_came_further_and_both_reasons_are_told() -> None:
    said = "crashed at step 4 (exit code 1): ValueError: a"
    assert verdict(1, 5, crashed(4)).word == "crashed"
    assert verdict(1, 4, {"verdict": "stopped", "step": 4}).word == "crashed"
    assert (
        verdict(1, 4, crashed(4, said), words="ValueError: a").reason
        == f"{said}, like the previous attempt, so the run was given up"
    )
    other = verdict(1, 4, crashed(4, said), words="KeyError: b")
    assert other.word == "failed"
    assert (
        other.reason
        == f"crashed at step 4 (exit code 1): KeyError: b; the previous attempt {said}, so the run was given up"
    )


@pytest.mark.parametrize("code", [2, 3, 4, 1])
def test_a_code_of_srun_itself_says_nothing_of_the_input(code: int) -> None:
    found = verdict(code, 0, by_srun=True, words="srun: error: Unable to create step")
    assert found == AttemptVerdict(
        "crashed", True, f"srun itself failed (exit code {code}): srun: error: Unable to create step"
    )


def test_the_third_stop_without_progress_is_the_last() -> None:
    def stop(mark: str) -> dict[str, Any]:
        return {"verdict": "stopped", "step": 0, "mark": mark}

    assert verdict(75, 0, stop("a"), mark="a").goes_on
    assert verdict(75, 0, stop("b"), stop("a"), mark="a").goes_on
    assert verdict(75, 0, stop("a"), crashed(0), mark="a").goes_on
    found = verdict(75, 0, stop("a"), stop("a"), mark="a", stop_signal="USR1")
    assert (found.word, found.goes_on) == ("failed", False)
    assert found.reason.startswith("stopped (USR1): the third stop in a row without progress"), "it was still loading"
    assert "cluster.time" in found.reason
    cancelled = [{**stop("a"), "signal": "TERM"}, {**stop("a"), "signal": "TERM"}]
    assert verdict(75, 0, *cancelled, mark="a", stop_signal="USR1").goes_on, "its user cancelled it twice"
    assert verdict(75, 0, stop("a"), stop("a"), mark="a", stop_signal="TERM").word == "stopped"
    by_file = [{**stop("a"), "signal": STOP_FILE}] * 2
    assert verdict(75, 0, *by_file, mark="a", stop_signal="USR1").goes_on


def test_steps_shards_answers_and_cached_references_are_progress(tmp_path: Path) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    marks = [progress_mark(run, 0, cache), progress_mark(run, 1, cache)]
    files = ("rounds/0000/shard-00.parquet", "answers/journal-0.bin", "client_answers/journal")
    for file in (*files, "checkpoints/step-000001/manifest.json"):
        (run / file).parent.mkdir(parents=True)
        (run / file).write_bytes(b"1")
        marks.append(progress_mark(run, 1, cache))
    (run / "answers/journal-0.bin").write_bytes(b"12")
    marks.append(progress_mark(run, 1, cache))
    (cache / "reference" / "x").mkdir(parents=True)
    (cache / "reference" / "x" / "unit").write_bytes(b"1")
    marks.append(progress_mark(run, 1, cache))
    assert len(set(marks)) == len(marks)
    (run / "logs").mkdir()
    (run / "logs" / "rank-0.out").write_text("more")
    assert progress_mark(run, 1, cache) == marks[-1]


@pytest.mark.parametrize(
    ("job", "about", "state", "reason"),
    [
        ("7", {"requeued": True}, "failed", f"stopped at step 3; the job ended before its next attempt began: {DIED}"),
        ("8", {"requeued": False}, "failed", f"stopped at step 3; the job ended before its next attempt began: {DIED}"),
        ("9", {"requeued": True}, "failed", f"never started (failed): {DIED}"),
        ("7", {"requeued": False}, "stopped", "stopped at step 3"),
        ("7", {"requeued": True, "signal": "TERM"}, "stopped", "stopped at step 3"),
        ("8", {"requeued": False, "signal": STOP_FILE}, "stopped", "stopped at step 3"),
        ("8", {"requeued": False, "verdict": "failed"}, "failed", "stopped at step 3"),
    ],
    ids=["requeued", "next segment", "submitted again", "no more", "cancelled", "stop file", "given up"],
)
def test_a_job_that_dies_before_its_attempt_begins_is_failed(
    job: str, about: dict[str, Any], state: str, reason: str, tmp_path: Path
) -> None:
    """The attempt of job 7 stopped. Job 8 is the next segment of the same submission; job 9 belongs to a later submission."""
    attempt, log = RunDir(tmp_path / "run").attempt(1), tmp_path / "log"
    attempt.path.mkdir(parents=True)
    stopped = {"job": "7", "started": 1.0, "ended": 2.0, "verdict": "stopped", "reason": "stopped at step 3"}
    note_attempt(attempt, **stopped | about)
    write_job(tmp_path / "run", "psychocounsel.train", 0, [])
    log.write_text(f"run: stopped at step 3\n{DIED}\n")
    ended = QueueState(job, "ended", ending="failed", log=log, jobs=["9"] if job == "9" else ["7", "8"])
    row = row_of(ListedRun(0, tmp_path / "run", ""), ended)
    assert (row.state, row.reason) == (state, reason)


OUT_OF_MEMORY = "RuntimeError: CUDA out of memory"
NO_MODULE = "/var/job/script: line 12: module: command not found"
NO_SPACE = "cp: write error: No space left on device"


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (f"step 1\nTraceback (most recent call last):\n  File x\n{OUT_OF_MEMORY}\nbye\n", OUT_OF_MEMORY),
        (f"[rank1]: {OUT_OF_MEMORY}\nsrun: error: n1: task 1: Exited with exit code 1\n", OUT_OF_MEMORY),
        ("error: data.path=x: no such file\n", "error: data.path=x: no such file"),
        (f"{NO_MODULE}\n", NO_MODULE),
        (f"{NO_SPACE}\nslurmstepd: error: *** STEP 7.0 ON n1 CANCELLED ***\n", NO_SPACE),
        ("step 1\nstep 2\n\n", "step 2"),
        ("srun: error: n1: task 0: Exited with exit code 1\n", ""),
        ("", ""),
    ],
)
def test_the_line_that_names_the_error_is_found(log: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(log)
    assert last_error(tmp_path / "log") == line
    assert last_error(tmp_path / "log", only_named=True) == ("" if line == "step 2" else line)


def test_an_error_in_a_later_log_counts_before_plain_lines_and_a_line_is_cut(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("all is well\n")
    (tmp_path / "b").write_bytes(b"srun: error: Unable to create step for job 7: \x1b[31mInvalid" + b"x" * 400)
    found = last_error(tmp_path / "missing", tmp_path / "a", tmp_path / "b")
    assert found.startswith("srun: error: Unable to create step for job 7:") and len(found) == 240
    assert found.isprintable() and last_error(tmp_path / "a") == "all is well"


def test_missing_servers_are_temporary_once_a_run_has_trained(tmp_path: Path) -> None:
    """An earlier attempt wrote a checkpoint with rewards of these servers, so their addresses are right."""
    run: Any = SimpleNamespace(dir=tmp_path)

    def error(raised: UserError) -> UserError:
        def work(run: Any, command: Any) -> int:
            raise raised

        with pytest.raises(UserError) as caught:
            _served(run, None, work)  # type: ignore[arg-type]
        return caught.value

    assert not isinstance(error(NoServerLeft("no server answers")), GoOnLater)
    checkpoint = RunDir(tmp_path).checkpoint(3).path
    checkpoint.mkdir(parents=True)
    (checkpoint / "loop.json").write_text("{}")
    write_manifest(checkpoint, {"loop.json": {"bytes": 2, "sha256": ""}})
    assert isinstance(error(NoServerLeft("no server answers")), GoOnLater)
    assert not isinstance(error(UserError("wrong key")), GoOnLater)
