"""`code.txt` contains the difference to the commit, of code files only."""

import subprocess
from pathlib import Path

import pytest

from psychocounsel.cluster import job

_HAS_GIT = subprocess.run("git --version", shell=True, capture_output=True).returncode == 0


@pytest.mark.skipif(not _HAS_GIT, reason="no git here")
def test_changes_of_code_stand_in_it_and_data_in_the_same_checkout_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ["psychocounsel/errors.py", "psychocounsel/algo/own.py", "conf/algo/own.yaml", "slurm/job.sbatch.j2"]
    data = ["clients.jsonl", "data/clients.csv", "psychocounsel/clients.jsonl", "conf/clients.txt"]
    for name in [*files, *data]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    for name in files:
        (tmp_path / name).write_bytes(b"x = 'caf\xe9'\n")
    for name in [*data, "staged.jsonl"]:
        (tmp_path / name).write_text("I told nobody so far\n")
    subprocess.run([*git, "add", "staged.jsonl", "clients.jsonl"], check=True)
    monkeypatch.setattr(job, "PACKAGE", tmp_path / "psychocounsel")
    state = job._code_state.__wrapped__()
    assert [line.split()[-1] for line in state.splitlines() if line.startswith("+++")] == sorted(
        f"b/{name}" for name in files
    )
    assert "commit " in state and "I told nobody" not in state and "clients" not in state
