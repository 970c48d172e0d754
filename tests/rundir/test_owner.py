"""One live process owns a run directory, even if many start at once."""

import json
import os
import subprocess
import sys
import time
from multiprocessing.queues import Queue
from pathlib import Path

import pytest

from psychocounsel.cluster import rank
from psychocounsel.commands.application import main
from psychocounsel.errors import CONTINUE_LATER, GoOnLater, UserError
from psychocounsel.rundir import owner
from psychocounsel.rundir.owner import ownership, refuse_if_owned
from psychocounsel.rundir.run_config import write_config, write_job
from psychocounsel.storage import locks
from tests.support.composed import check, compose
from tests.support.harness import ROOT
from tests.support.processes import FORKED

# One live process owns a run directory, even if many start at once.


def contend(run_dir: Path, results: "Queue[str]", gate: object) -> None:
    gate.wait()  # type: ignore[attr-defined]
    try:
        with ownership(run_dir):
            results.put("owned")
            time.sleep(1.0)
    except UserError:
        results.put("refused")


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_starting_together_one_wins(stale: bool, tmp_path: Path) -> None:
    if stale:
        dead = {"host": os.uname().nodename, "pid": 2**22 + 1, "started": "1", "id": "x"}
        (tmp_path / "owner.json").write_text(json.dumps(dead))
    results, gate = FORKED.Queue(), FORKED.Barrier(9)
    processes = [FORKED.Process(target=contend, args=(tmp_path, results, gate)) for _ in range(8)]
    for process in processes:
        process.start()
    gate.wait()
    outcomes = sorted(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    assert outcomes == ["owned"] + ["refused"] * 7
    assert not list(tmp_path.iterdir()), "no files remain"


def test_owner_on_another_host_counts_while_its_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "owner.json"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1", "id": "x"}))
    with pytest.raises(UserError, match="in use by process 1 on elsewhere"), ownership(tmp_path):
        pass
    long_ago = time.time() - locks.STALE_SECONDS - 1
    os.utime(lock, (long_ago, long_ago))
    with ownership(tmp_path):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert not lock.exists()


def test_an_owner_on_another_host_is_seen_in_a_folder_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    (tmp_path / "owner.json").write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1", "id": "x"}))
    monkeypatch.setattr(Path, "touch", refused)
    assert (owner.live_owner(tmp_path) or {}).get("host") == "elsewhere"
    os.utime(tmp_path / "owner.json", (0, 0))
    assert owner.live_owner(tmp_path) is None


def test_heartbeat_keeps_the_lock_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.05)
    with ownership(tmp_path):
        os.utime(tmp_path / "owner.json", (0, 0))
        time.sleep(0.3)
        assert (tmp_path / "owner.json").stat().st_mtime > 0


def test_damaged_lock_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "owner.json").write_text("{")
    with ownership(tmp_path):
        pass


# Tests of killed and live owners of a run directory, for an unattended job and for a person.

_DIES = """
import os, signal, sys
from pathlib import Path
from psychocounsel.storage.locks import Lock
assert Lock(Path(sys.argv[1])).take()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_was_killed_and_not_yet_reaped_is_dead(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _DIES, str(tmp_path / "owner.json")]
    zombie = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)  # the process has ended, but nobody has reaped it
    assert Path(f"/proc/{zombie.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    assert json.loads((tmp_path / "owner.json").read_text())["pid"] == zombie.pid
    refuse_if_owned(tmp_path)
    with ownership(tmp_path):
        assert json.loads((tmp_path / "owner.json").read_text())["pid"] == os.getpid()
    zombie.wait()


@pytest.fixture
def in_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PBS_JOBID", "7.queue")  # a queue whose commands the package does not call
    monkeypatch.setattr(owner, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(owner, "PATIENCE_SECONDS", 0.3)


def owned_elsewhere(run_dir: Path) -> Path:
    lock = run_dir / "owner.json"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1", "id": "x", "job": "6"}))
    return lock


def test_a_job_takes_over_when_the_heart_of_the_owner_stops(
    tmp_path: Path, in_a_job: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locks, "STALE_SECONDS", 2.0)  # the first look must come earlier, on a busy machine too
    monkeypatch.setattr(owner, "PATIENCE_SECONDS", 30.0)
    lock = owned_elsewhere(tmp_path)
    with ownership(tmp_path):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert capfd.readouterr().err.startswith(f"{tmp_path} is in use by process 1 on elsewhere (job 6): waiting up to")


def test_in_a_job_an_owner_that_lives_is_one_line_and_75_of_the_command_and_of_a_rank(
    tmp_path: Path,
    in_a_job: None,
    own_environment: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write_config(run, check(compose([f"run_dir={run}"])))
    write_job(run, "psychocounsel.train", 0, [])
    owned_elsewhere(run)
    monkeypatch.setattr(sys, "argv", ["train", f"run_dir={run}"])
    with pytest.raises(SystemExit) as ended:
        main("psychocounsel.train")
    assert ended.value.code == CONTINUE_LATER
    _, line = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {run} is still in use by process 1 on elsewhere (job 6)")
    assert f"`touch {run}/stop`" in line

    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as ended:
        rank.main(run)
    assert ended.value.code == CONTINUE_LATER
    assert "is still in use by process 1 on elsewhere" in capfd.readouterr().err.splitlines()[-1]


def test_a_person_is_told_at_once_who_owns_it(tmp_path: Path, in_a_job: None, monkeypatch: pytest.MonkeyPatch) -> None:
    owned_elsewhere(tmp_path)
    with pytest.raises(GoOnLater):
        refuse_if_owned(tmp_path)
    monkeypatch.delenv("PBS_JOBID")
    with pytest.raises(
        UserError, match=r"process 1 on elsewhere .*`touch .*/stop`.*free 90 s after its last heartbeat"
    ):
        refuse_if_owned(tmp_path)
