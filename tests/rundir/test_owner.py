"""One live process owns a run directory, even if many start at once."""

import json
import os
import time
from multiprocessing.queues import Queue
from pathlib import Path

import pytest

from psychocounsel.errors import UserError
from psychocounsel.rundir.owner import ownership
from psychocounsel.storage import locks
from tests.support.processes import FORKED


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
