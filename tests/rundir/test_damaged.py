"""Tests of damaged run files, of a full disk, and of Ctrl-C during the start."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from psychocounsel.cluster import states
from psychocounsel.errors import CONTINUE_LATER
from psychocounsel.rundir.sweep import add_to_table
from tests.support.bad_files import make_runs

DISK = 'mount -t tmpfs -o "size=$0" tmpfs "$1"; shift; "$@"; code=$?; ls -AR "$DISK" > "$LISTING"; exit $code'


def test_status_marks_damaged_runs_and_shows_the_others(tmp_path: Path) -> None:
    runs = tmp_path / "sweep"
    make_runs(runs)
    shutil.rmtree(runs / "sweep")
    names = [
        f"{file}_{kind}" for file in ("summary", "config", "state") for kind in ("garbled", "empty", "list", "number")
    ]
    names += ["summary_huge", "state_huge", "summary_control", "whole"]
    add_to_table(runs, [(runs / name, [f"seed={name}"]) for name in names])
    rows = {row.run_dir.name: row for row in states.rows(runs)}
    assert rows.pop("whole").state == "finished"
    assert {row.state for row in rows.values()} == {"damaged"}
    assert all(row.reason.startswith(str(row.run_dir)) for row in rows.values())
    assert f"{len(rows)} damaged" in states.table(states.rows(runs), runs)


def on_small_disk(size: str, tmp_path: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Train with `run_dir` on a disk of `size`; return the finished process and the content of the disk."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("a file system of the test's own cannot be mounted here")
    disk, listing = tmp_path / "disk", tmp_path / "left.txt"
    disk.mkdir()
    command = [
        sys.executable,
        "-m",
        "psychocounsel.train",
        "debug=fast",
        "cluster.threads=1",
        f"run_dir={disk}/run",
        *arguments,
    ]
    environment = {**os.environ, "DISK": str(disk), "LISTING": str(listing)}
    whole = ["unshare", "--mount", "sh", "-c", DISK, size, str(disk), *command]
    done = subprocess.run(whole, env=environment, capture_output=True, text=True, cwd=tmp_path)
    return done, listing.read_text()


def test_a_disk_that_is_full_at_the_start_is_one_line(tmp_path: Path) -> None:
    done, left = on_small_disk("4k", tmp_path)
    assert done.returncode == CONTINUE_LATER, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and line.endswith("No space left on device")
    assert "run" not in left.splitlines()


@pytest.mark.slow
def test_a_disk_that_fills_up_is_one_line_and_no_half_files(small_model: Path, tmp_path: Path) -> None:
    done, left = on_small_disk("160k", tmp_path, f"model.path={small_model}")
    assert done.returncode == CONTINUE_LATER, done.stderr
    assert "no space left" in done.stderr.lower() and "Traceback" not in done.stderr
    assert ".tmp" not in left


def test_metrics_end_before_the_first_damaged_line(tmp_path: Path) -> None:
    from psychocounsel.rundir.results import read_metrics

    file = tmp_path / "metrics.jsonl"
    for damage in ("{", "[]", "{}", "3", '"step"'):
        file.write_text(json.dumps({"step": 0}) + f"\n{damage}\n" + json.dumps({"step": 2}) + "\n")
        assert read_metrics(file) == [{"step": 0}]
