"""Tests of a read-only disk, and of files without permissions: the command prints one line and leaves no files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from psychocounsel.errors import USER_ERROR
from tests.support.bad_files import make_runs
from tests.support.harness import ROOT, TINY
from tests.support.read_only import run_read_only


@pytest.mark.parametrize(
    "given",
    [
        ["run_dir=FOLDER/new/run"],
        ["-m", "seed=1,2", "sweep_dir=FOLDER/sweep"],
        ["-m", "seed=range(1,45)", "sweep_dir=FOLDER/sweep"],
        ["paths.output=FOLDER"],
    ],
)
def test_training_to_a_read_only_disk_is_one_line(given: list[str], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [sys.executable, "-m", "psychocounsel.train", "debug=fast", *given]
    done = run_read_only(command, disk, dict(os.environ))
    assert done.returncode == USER_ERROR, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: /") and line.endswith("Read-only file system")
    assert done.stdout == ""
    assert list(tmp_path.rglob("*")) == [disk]


@pytest.mark.slow
def test_a_read_only_cache_is_used_as_it_is(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    command = [sys.executable, "-m", "psychocounsel.train", "debug=fast", "max_steps=1", "data.limit=8", "eval.limit=4"]
    command += [f"run_dir={tmp_path / 'run'}", "paths.cache=FOLDER"]
    done = run_read_only(command, cache, dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    assert "cannot be written (Read-only file system)" in done.stderr
    assert list(cache.iterdir()) == []


# Root reads and writes whatever the permissions say, unless it gives up these capabilities.
_BOUND_BY_PERMISSIONS = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
_RUN = """
import json, sys
from tests.support.in_process import run_here
print(json.dumps([[answer.code, answer.stderr] for answer in map(run_here, sys.argv[1:])]))
"""
LOCKED = {
    "train data.path=locked.jsonl": "/locked.jsonl: cannot be read (Permission denied)",
    "train data.path=locked/rows.jsonl": "locked/rows.jsonl: Permission denied",
    "train run_dir=locked": "/locked/config.yaml: Permission denied",
    "train model.path=locked_model": "/locked_model/model.safetensors: Permission denied",
    "review data=locked.jsonl experts=[a]": "locked.jsonl: cannot be read (Permission denied)",
    "jobs status locked": "/locked/study.yaml: Permission denied",
    "export whole": "whole/model/model.safetensors: Permission denied",
    "export fixed": "/fixed/.export.tmp: Permission denied",
}


@pytest.mark.slow
def test_files_and_folders_without_permissions_are_named(tmp_path: Path) -> None:
    bound = _BOUND_BY_PERMISSIONS if os.getuid() == 0 else []
    if bound and (not shutil.which("setpriv") or subprocess.run([*bound, "true"], capture_output=True).returncode):
        pytest.skip("root cannot give up its capabilities here")
    make_runs(tmp_path / "made")
    for name in ("whole", "fixed"):
        shutil.copytree(tmp_path / "made" / "whole", tmp_path / name)
        shutil.copytree(TINY, tmp_path / name / "model")
        (tmp_path / name / "model" / "psychocounsel.json").write_text('{"step": 1}')
    shutil.rmtree(tmp_path / "made")
    shutil.copytree(TINY, tmp_path / "locked_model")
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked.jsonl").write_text("{}\n")
    for name in ("locked", "locked.jsonl", "locked_model/model.safetensors", "whole/model/model.safetensors"):
        (tmp_path / name).chmod(0)
    (tmp_path / "fixed").chmod(0o555)
    before = sorted(tmp_path.rglob("*"))
    command = [*bound, sys.executable, "-c", _RUN, *LOCKED]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    (tmp_path / "fixed").chmod(0o755)
    for (code, said), expected in zip(json.loads(done.stdout.splitlines()[-1]), LOCKED.values(), strict=True):
        assert code == USER_ERROR and said.count("\n") == 1 and expected in said, (expected, said)
    assert sorted(tmp_path.rglob("*")) == before
