"""Figures of `sacct` in `jobs status`: read from text in its --parsable2 format, and from a program of that name on PATH."""

from pathlib import Path

import pytest

from psychocounsel.cluster.base import Usage
from psychocounsel.cluster.slurm.accounting import read, usage_of
from psychocounsel.cluster.states import Row, lines_of
from psychocounsel.rundir import submissions

_PRINTED = """\
41_0|3600|8|04:00:00||64G|1|billing=8,cpu=8,gres/gpu=2,mem=64G,node=1
41_0.batch|3600|8|00:01.500|20000K||1|cpu=8,gres/gpu=2,mem=64G,node=1
41_0.0|3590|8|03:59:58.500|33554432K||1|cpu=8,gres/gpu=2,mem=64G,node=1
41_0|1800|8|02:00:00||64G|1|billing=8,cpu=8,gres/gpu=2,mem=64G,node=1
41_0.0|1790|8|02:00:00|4G||1|cpu=8,mem=64G,node=1
41_1|86400|4|1-00:00:00||2Gc|2|cpu=4,mem=8G,node=2
41_[2-9]|0|0|00:00:00||64G|0|
"""


def test_requeues_are_added_and_steps_tell_the_memory() -> None:
    used = read(_PRINTED)
    assert used["41_0"] == Usage(6 * 3600, 5400 * 8, 32 * 2**30, 64 * 2**30, 3.0)
    assert used["41_1"] == Usage(86400, 86400 * 4, 0, 4 * 2**30, 0.0) and len(used) == 2
    assert read("") == {} and read("Slurm accounting storage is disabled\n") == {}


def test_the_columns_are_there_only_where_there_are_figures() -> None:
    rows = [Row(0, Path("r"), "seed=1", "finished", attempts=1), Row(1, Path("s"), "seed=2", "running", attempts=1)]
    plain = lines_of(rows, ["0", "1"], ["seed=1", "seed=2"])
    assert "cpu" not in plain[0] and "GPU-hours" not in plain[0]
    rows[0].usage = read(_PRINTED)["41_0"]
    titles, first, second = lines_of(rows, ["0", "1"], ["seed=1", "seed=2"])
    assert "cpu  memory           GPU-hours" in titles
    assert "50%  32.0 of 64.0 GB  3.0" in first and "%" not in second


@pytest.mark.parametrize("is_enabled", [True, False])
def test_sacct_is_asked_once_for_all_jobs_and_may_refuse(
    is_enabled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sacct, home = tmp_path / "bin" / "sacct", tmp_path / "sweep"
    sacct.parent.mkdir()
    (tmp_path / "printed").write_text(_PRINTED)
    refusal = "echo Slurm accounting storage is disabled >&2; exit 1"
    answer = f"cat {tmp_path}/printed" if is_enabled else refusal
    sacct.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n{answer}\n')
    sacct.chmod(0o755)
    monkeypatch.setenv("PATH", str(sacct.parent), prepend=":")
    for jobs, names in ((["40"], "c"), (["41"], "ab")):
        made = submissions.new_submission(home)
        submissions.write(made, home, jobs, [[home / name] for name in names], [])
    found = usage_of([home])
    assert list(found) == ([home / "a", home / "b"] if is_enabled else [])
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert "--parsable2 --duplicates" in call and call.endswith("-j 40,41")
