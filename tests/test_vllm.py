"""A real vLLM on CPU writes what the policy would, in the training processes and in servers, before and after new weights."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.data.group import Group, read_groups
from tests.harness import ROOT, cli, metrics_of

pytest.importorskip("vllm")
pytestmark = pytest.mark.slow

SMALL = ("data.limit=200", "global_batch_size=8", "rollout.shard_prompts=4", "eval.every=0", "algo.warmup=0")


def written(*overrides: str, processes: int = 1) -> list[dict[str, Any]]:
    """What each rank of tests/vllm_check.py says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = []
    for rank in range(processes):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, "-m", "tests.vllm_check", *overrides]
        environment = {**os.environ, **place, **(meet if processes > 1 else {})}
        ranks.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True))
    return [json.loads(rank.communicate(timeout=400)[0].splitlines()[-1]) for rank in ranks]


@pytest.mark.parametrize(
    ("processes", "overrides"),
    [
        (1, []),
        (1, ["model.lora.rank=4"]),
        (2, ["zero=3"]),
    ],
    ids=["alone", "adapter", "partitioned"],
)
def test_greedy_replies_and_logprobs_are_those_of_hf_before_and_after_new_weights(
    processes: int, overrides: list[str]
) -> None:
    for rank in written(*overrides, processes=processes):
        for moment, version in (("before", 0), ("after", 5)):
            assert rank[moment]["same"] and rank[moment]["texts"], f"{moment}: other tokens than transformers writes"
            assert rank[moment]["difference"] < 1e-4
            assert rank[moment]["versions"] == [version]
        assert rank["before"]["ids"] != rank["after"]["ids"], "the weights did change"
        assert rank["drawn"]["difference"] < 1e-4
        assert len({tuple(ids) for ids in rank["drawn"]["ids"]}) == 12, "each sample is a draw of its own"
        assert rank["again"] and rank["other"], "the seed decides"
        assert rank["threads"], "training has as many threads as before"
        assert rank["nothing"] == (3 if rank["rank"] == 0 else 0)


def replies_of(run: Path) -> list[Group]:
    return [group for file in sorted(run.glob("rounds/*/shard-*.parquet")) for group in read_groups(file)]


def tokens(groups: list[Group]) -> list[list[int]]:
    return [reply.ids.tolist() for group in groups for reply in group.completions]


def test_a_run_writes_with_an_engine_and_goes_on_without_making_a_finished_shard_again(tmp_path: Path) -> None:
    command = ("train", "algo=online_dpo", "rollout=vllm", *SMALL, "max_steps=2", "checkpoint.every=1")
    cli(*command, f"run_dir={tmp_path / 'run'}", "+callbacks.kill={_target_: tests.killer.Kill, event: step_end, step: 2}",
        check_code=None, PYTHONPATH=str(ROOT))  # fmt: skip
    before = {file: file.read_bytes() for file in tmp_path.glob("run/rounds/*/shard-*.parquet")}
    assert len(before) == 4
    cli(*command, f"run_dir={tmp_path / 'run'}")
    assert all(file.read_bytes() == content for file, content in before.items())
    versions = {reply.policy_version for group in replies_of(tmp_path / "run") for reply in group.completions}
    assert versions == {0, 1}


class Watch(threading.Thread):
    """Ends a server with `number` as soon as the run has `shards` shards."""

    def __init__(self, run: Path, shards: int, number: int) -> None:
        super().__init__(daemon=True)
        self.run_dir, self.shards, self.number = run, shards, number
        self.killed = 0

    def run(self) -> None:
        while len(list(self.run_dir.glob("rounds/*/shard-*.parquet"))) < self.shards:
            time.sleep(0.02)
        found = subprocess.run(["pgrep", "-f", f"rollout.serve {self.run_dir} "], capture_output=True, text=True)
        for process in found.stdout.split()[:1]:
            os.killpg(int(process), self.number)
            self.killed += 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
def test_what_a_lost_server_was_to_write_is_written_all_the_same(tmp_path: Path, number: int) -> None:
    """Two servers write what an engine in the process does, also when one of them is lost and started anew."""
    run = tmp_path / "run"
    watch = Watch(run, 1, number)
    watch.start()
    common = ("train", "algo=online_dpo", *SMALL, "max_steps=3")
    said = cli(*common, "rollout=vllm_server", "rollout.servers=2", "rollout.timeout_seconds=20", f"run_dir={run}")
    assert watch.killed == 1
    assert "is left out" in said.stderr or "starting it anew" in said.stdout + said.stderr
    cli(*common, "rollout=vllm", f"run_dir={tmp_path / 'alone'}")
    assert tokens(replies_of(run)) == tokens(replies_of(tmp_path / "alone"))
    left = subprocess.run(["pgrep", "-f", f"rollout.serve {run} "], capture_output=True, text=True).stdout
    assert not left, "the servers end with the run"


def test_rounds_that_overlap_are_written_by_weights_of_one_round_before(tmp_path: Path) -> None:
    common = ("train", "algo=online_dpo", *SMALL, "max_steps=4", "rollout=vllm_server", "rollout.overlap=true")
    cli(*common, f"run_dir={tmp_path / 'run'}")
    versions = [
        {reply.policy_version for group in read_groups(file) for reply in group.completions}
        for file in sorted((tmp_path / "run").glob("rounds/*/shard-*.parquet"))
    ]
    assert versions == [{0}, {0}, {0}, {0}, {1}, {1}, {2}, {2}]
    refused = cli("train", "algo=ppo", "rollout=vllm_server", "rollout.overlap=true", check_code=2)
    assert "algo.importance_cap" in refused.stderr


def test_a_server_by_address_answers_nothing_without_the_key_nor_by_other_weights(tmp_path: Path) -> None:
    import httpx

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    key = {"PSYCHOCOUNSEL_ROLLOUT_KEY": "a key of ours"}
    command = [sys.executable, "-m", "psychocounsel.serve", "--port", str(port), "model=tiny"]
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(command, env={**os.environ, **key}, start_new_session=True)
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                assert httpx.get(f"{address}/health", timeout=5).json() == {"version": None}
                break
            except httpx.HTTPError:
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.5)
        asked = {
            "version": 0,
            "prompts": [[1, 2]],
            "settings": [{"n": 1, "temperature": 1.0, "max_tokens": 2}],
            "stop": [2],
        }
        for route in ("/generate", "/weights/begin", "/weights/piece", "/weights/end?version=0"):
            assert httpx.post(address + route, json=asked).status_code == 401
        answer = httpx.post(f"{address}/generate", json=asked, headers={"Authorization": "Bearer a key of ours"})
        assert answer.status_code == 409 and re.search("version None, not 0", answer.text)
        common = ("train", "algo=online_dpo", *SMALL, "max_steps=2")
        cli(*common, "rollout=vllm_server", f"rollout.addresses=[{address}]", f"run_dir={tmp_path / 'run'}", **key)
        wrong = cli(*common, "rollout=vllm_server", f"rollout.addresses=[{address}]", check_code=2, cwd=tmp_path,
                    PSYCHOCOUNSEL_ROLLOUT_KEY="another")  # fmt: skip
        assert "does not accept the key in PSYCHOCOUNSEL_ROLLOUT_KEY" in wrong.stderr
    finally:
        os.killpg(server.pid, signal.SIGKILL)
    cli(*common, "rollout=hf", f"run_dir={tmp_path / 'hf'}")
    mine, other = metrics_of(tmp_path / "run")[0], metrics_of(tmp_path / "hf")[0]
    assert mine["eval/length"] == pytest.approx(other["eval/length"], rel=0.3), "replies of the same kind"
