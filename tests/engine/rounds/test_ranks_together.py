"""Ranks of an online run with servers: equal collectives, replies that are late, lost servers, and stop requests."""

import threading
import time
from pathlib import Path

import pytest

from psychocounsel.data.group import read_groups
from tests.support.harness import ROOT, cli
from tests.support.rollout_stand_in import StandIn, standing_in

RANKS = 3
LATE = 5.0  # seconds
EACH_ROUND = HELD_OUT = 6  # prompts
SMALL = (
    "algo=online_dpo",
    "reward=tiny",
    "model=tiny",
    "data.limit=100",
    f"global_batch_size={EACH_ROUND}",
    "eval.limit=6",
)
SMALL += ("rollout=vllm_server", "rollout.shard_prompts=1", "rollout.top_p=0.99", "rollout.max_tokens=16", "zero='2'")
RECORD = "+callbacks.recorded={_target_: tests.support.recorded.Recorded}"


def trained(server: StandIn, run: Path, *more: str, code: int = 0) -> None:
    given = (
        f"rollout.addresses=['{server.address}']",
        f"run_dir={run}",
        f"cluster.processes={RANKS}",
        "cluster.threads=1",
    )
    paths = {"PYTHONPATH": str(ROOT), "PSYCHOCOUNSEL_ROLLOUT_KEY": "a key"}
    cli("train", *SMALL, *given, RECORD, *more, check_code=code, **paths)


def collectives(run: Path) -> list[list[str]]:
    """Return the collectives of each rank, and its events except those that are announced by one rank alone."""
    files = [(run / f"collectives-{rank}").read_text().splitlines() for rank in range(RANKS)]
    return [[line for line in lines if not line.startswith(("# shard_done", "# scored"))] for lines in files]


def shards(run: Path, number: int) -> list[Path]:
    return sorted((run / "rounds" / f"{number:04}").glob("shard-*.parquet"))


@pytest.mark.slow
def test_a_late_reply_holds_up_no_other_shard_and_a_lost_server_gets_the_weights_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    late, lost = HELD_OUT + 1, HELD_OUT + EACH_ROUND + HELD_OUT + 2  # prompts of the first round and of the second one

    def seconds(number: int) -> float | None:
        return None if number == lost else LATE if number == late else 0.0

    with standing_in(seconds) as server:
        trained(server, run, "max_steps=2", "checkpoint.every=1", "eval.every=1")
    first, second = shards(run, 0), shards(run, 1)
    assert len(first) == len(second) == EACH_ROUND
    times = sorted(float(line.split()[1]) for line in (run / "shards").read_text().splitlines() if line.startswith("0"))
    assert len(times) == EACH_ROUND and times[-1] - times[-2] > LATE - 2, "only the late shard is late"
    versions = {reply.policy_version for file in second for group in read_groups(file) for reply in group.completions}
    assert versions == {1}, "replies after the loss are by the same weights"
    ranks = collectives(run)
    assert len(ranks[0]) > 100 and f"{RANKS} broadcast" in " ".join(ranks[0])
    assert ranks[0] == ranks[1] == ranks[2]
    assert {"# checkpoint_renamed 2", "# step_end 2", "# sync_done 1"} <= set(ranks[0])


@pytest.mark.slow
def test_a_stop_request_ends_the_run_while_replies_are_awaited(tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped = []

    def seconds(number: int) -> float:
        return 600.0 if number == HELD_OUT + 1 else 0.0

    def stop() -> None:
        while len(shards(run, 0)) < EACH_ROUND - 1:
            time.sleep(0.05)
        stopped.append(time.monotonic())
        (run / "stop").touch()

    with standing_in(seconds) as server:
        threading.Thread(target=stop, daemon=True).start()
        trained(server, run, "max_steps=2", code=75)
        assert time.monotonic() - stopped[0] < 30
    ranks = collectives(run)
    assert ranks[0] == ranks[1] == ranks[2] and "# checkpoint_renamed 0" in ranks[0]
