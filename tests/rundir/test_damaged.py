"""Tests of damaged run files, of a full disk, and of Ctrl-C during the start."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.cluster import states
from psychocounsel.errors import CONTINUE_LATER, UserError
from psychocounsel.reporting.maker import Options, make_report
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.results import gate_verdict, is_finished, objective, read_metrics, write_summary
from psychocounsel.rundir.run_config import write_config, write_job
from psychocounsel.rundir.sweep import add_to_table, runs_of
from psychocounsel.studies.status import listing
from tests.support.bad_files import make_runs
from tests.support.composed import check, compose

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
    file = tmp_path / "metrics.jsonl"
    for damage in ("{", "[]", "{}", "3", '"step"'):
        file.write_text(json.dumps({"step": 0}) + f"\n{damage}\n" + json.dumps({"step": 2}) + "\n")
        assert read_metrics(file) == [{"step": 0}]


_VERDICTS: tuple[Any, ...] = (
    [1],
    ["wins"],
    {"word": "wins"},
    "wins",
    3,
    [{}],
    [{"word": "wins", "text": "it wins"}],
    [{"word": 1, "text": 2}],
)
_STATUSES: tuple[Any, ...] = (3, [], {"a": 1}, True)
STRANGE: dict[str, tuple[str, dict[str, Any]]] = {  # in shapes of another version or a hand
    **{f"verdicts {shape}": ("summary.json", {"status": "finished", "verdicts": shape}) for shape in _VERDICTS},
    **{f"status {shape}": ("summary.json", {"status": shape}) for shape in _STATUSES},
    **{
        f"metrics {shape}": ("summary.json", {"status": "finished", "metrics": shape})
        for shape in (3, [1], "x", {"best": 3}, {"best": [1]}, {"last": "x"}, {"best": {"eval/loss": "low"}})
    },
    **{
        f"{key} as a text": ("summary.json", {"status": "finished", key: "x"})
        for key in ("seconds", "slices", "doubts")
    },
    **{f"{key} as a text": ("state.json", {"phase": "training", key: "x"}) for key in ("step", "total", "heartbeat")},
    "phase as a list": ("state.json", {"phase": [1], "step": 1, "total": 3}),
    **{
        f"{key} as a list": ("attempt", {"started": 1.0, key: [1]})
        for key in ("started", "ended", "verdict", "job", "nodes")
    },
    "an attempt without a start": ("attempt", {"ended": 3.0, "verdict": "failed"}),
    "an attempt with nulls": ("attempt", {"started": None, "ended": None, "verdict": None, "reason": None}),
    "step as a text": ("metrics.jsonl", {"step": "1", "loss": 1.0, "step_seconds": 2.0}),
    "loss as a list": ("metrics.jsonl", {"step": 1, "loss": [1], "step_seconds": "x"}),
}


def _report(sweep: Path) -> str:
    made = make_report([sweep], Options(sweep.parent / "report"))
    return "\n".join(f"{run.path.name} {run.status} {run.problems}" for run in made.material.runs)


READERS: dict[str, Callable[[Path], str]] = {
    "status": lambda sweep: states.table(states.rows(sweep), sweep),
    "list": lambda sweep: listing(sweep.parent)[0],
    "figures": lambda sweep: " ".join(str(_figure(run.run_dir)) for run in runs_of(sweep)),
    "report": _report,
}


def _figure(run: Path) -> object:
    try:
        return objective(run, "eval/loss"), gate_verdict(run), is_finished(run), read_metrics(RunDir(run).metrics)
    except UserError as error:
        return error


@pytest.mark.parametrize("reader", READERS)
def test_files_in_another_shape_hide_no_run_and_no_other_run(reader: str, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    runs = [sweep / "whole", *(sweep / f"run-{number}" for number in range(len(STRANGE)))]
    for number, run in enumerate(runs):
        RunDir(run).attempt(1).path.mkdir(parents=True)
        write_config(run, check(compose([f"run_dir={run}"])))
        write_job(run, "psychocounsel.train", number, [])
    for run, (name, content) in zip(runs[1:], STRANGE.values(), strict=True):
        file = RunDir(run).attempt(1).record if name == "attempt" else run / name
        file.write_text(json.dumps(content) + "\n")
    write_summary(runs[0], "finished", metrics={"best": {"eval/loss": 1.5}, "before": None, "last": None})
    add_to_table(sweep, [(run, [f"seed={number}"]) for number, run in enumerate(runs)])
    said = READERS[reader](sweep)
    assert "1.5" in said if reader == "figures" else "finished" in said
    if reader == "status":
        rows = dict(zip(STRANGE, states.rows(sweep)[1:], strict=True))
        odd = [title for title, row in rows.items() if title.startswith("verdicts") and row.state == "finished"]
        assert odd == [title for title in rows if title.startswith("verdicts")]
        assert all("verdicts in" in rows[title].reason and not rows[title].verdict for title in odd)
        assert all(
            row.reason for title, row in rows.items() if title.startswith(("status", "metrics 3", "phase", "seconds"))
        )
    if reader == "report":
        assert all(f"{run.name} " in said for run in runs)
