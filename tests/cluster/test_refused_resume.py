"""A command that is refused while it resumes a run leaves the run as it was, finished or stopped."""

import os
from pathlib import Path

import pytest

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
