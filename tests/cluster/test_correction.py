"""A run that has made no step takes corrected settings in the same run directory; one with progress, or a live one, does not."""

import json
from pathlib import Path

import pytest

from psychocounsel.storage.locks import Lock
from tests.support.harness import cli

_FAILS = "+callbacks.fail={_target_: tests.support.killer.Fail, seed: 1, file: %s, step: 0}"


@pytest.mark.slow
def test_a_run_without_a_step_is_corrected_and_keeps_its_logs(tmp_path: Path) -> None:
    run, broken = tmp_path / "run", tmp_path / "broken"
    broken.touch()
    given = ["debug=fast", "seed=1", f"run_dir={run}", _FAILS % broken]
    cli("train", *given, "max_length=700", check_code=1)
    lock = Lock(run / "owner.json")
    assert lock.take()
    assert "is in use by process" in cli("train", *given, "max_length=600", check_code=2).stderr
    lock.release()
    broken.unlink()
    (run / "code.txt").write_text("of older code\n")
    done = cli("train", *given, "max_length=600")
    assert f"{run}: has made no step yet and is corrected: max_length was 700, now 600" in done.stdout.splitlines()
    assert sorted(path.name for path in (run / "logs").iterdir() if path.name.isdigit()) == ["01", "02"]
    assert (
        json.loads((run / "state.json").read_text())["step"] == 2
        and "of older code" not in (run / "code.txt").read_text()
    )
    refused = cli("train", *given, "max_length=500", check_code=2).stderr
    assert "belongs to a run with other settings (max_length was 600, now 500)" in refused
