"""A command that is refused while it resumes a run leaves the run as it was, finished or stopped."""

import os
from pathlib import Path

import pytest

from psychocounsel.cluster.job import Job, write_run_directory
from psychocounsel.rundir.results import put_back, write_summary
from psychocounsel.settings.command import command_of
from tests.support.composed import checked
from tests.support.harness import cli, write_jsonl

ROWS = [
    {
        "prompt": f"I can't sleep, for the {number}th night.",
        "chosen": f"Since when? {number}",
        "rejected": f"Sleep. {number}",
    }
    for number in range(12)
]
DEFINING = ("config.yaml", "overrides.txt", "summary.json", "state.json")


def contents(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in DEFINING}


@pytest.mark.slow
def test_data_that_changed_leave_a_finished_run_finished(tmp_path: Path, small_model: Path) -> None:
    run, data = tmp_path / "run", tmp_path / "pairs.jsonl"
    write_jsonl(data, ROWS)
    given = [f"model.path={small_model}", f"data.path={data}", "global_batch_size=4", f"run_dir={run}"]
    cli("train", *given, "max_steps=1")
    before, times = contents(run), data.stat()
    write_jsonl(data, ROWS[:-1])
    done = cli("train", *given, "max_steps=2", check_code=2)
    assert "the data changed since this run began" in done.stderr
    assert contents(run) == before and not (run / "earlier.json").exists()
    assert run.name in cli("jobs", "status", str(run)).stdout and '"finished"' in (run / "summary.json").read_text()
    write_jsonl(data, ROWS)
    os.utime(data, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "is already finished" in cli("train", *given, "max_steps=1").stdout
    cli("train", *given, "max_steps=2")
    assert contents(run) != before and not (run / "earlier.json").exists()


def test_a_measurement_that_fails_when_done_again_leaves_the_figures(tmp_path: Path) -> None:
    """An evaluation has no checkpoint. While it is measured again, a copy keeps its summary."""
    config = checked("evaluation=reward", f"run_dir={tmp_path}", name="evaluate")
    job = Job(command_of("psychocounsel.evaluate"), config, tmp_path)
    write_run_directory(job)
    write_summary(tmp_path, "finished", metrics={"accuracy": 0.7})
    before = (tmp_path / "summary.json").read_bytes()
    write_run_directory(job)
    assert not (tmp_path / "summary.json").exists()
    put_back(tmp_path)
    assert (tmp_path / "summary.json").read_bytes() == before
    write_run_directory(job)
    write_summary(tmp_path, "finished", metrics={"accuracy": 0.8})
    assert not (tmp_path / "earlier.json").exists()
