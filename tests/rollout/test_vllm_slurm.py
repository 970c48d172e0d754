"""vLLM servers on separate nodes, under a real SLURM."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from psychocounsel.data.group import Group, read_groups
from tests.support.harness import TINY, metrics_of
from tests.support.slurm_cluster import Cluster, start

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("vllm")]


@pytest.fixture(scope="module")
def slurm(vllm: None) -> Iterator[Cluster]:
    yield from start(TINY)


def rounds(run: Path) -> list[list[Group]]:
    return [read_groups(file) for file in sorted(run.glob("rounds/*/shard-*.parquet"))]


def test_servers_on_a_node_of_the_job_write_with_the_trainers_weights(slurm: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    online = {"algo": "online_dpo", "reward": "tiny", "algo.warmup": 0, "rollout.shard_prompts": 4}
    slurm.train(*slurm.overrides(2, run_dir=run, rollout="vllm_server", **online, **{"cluster.server_nodes": 1}))
    slurm.until(lambda: bool(list(run.glob("servers/*.json"))), 300, run)
    assert json.loads((run / "servers" / "0.json").read_text())["job"] == slurm.job_of(run)
    assert slurm.ended(run, 400) == ["finished"]
    slurm.until(lambda: "JobState=COMPLETED" in slurm.call("scontrol", "show", "job", slurm.job_of(run)), 30)
    versions = [{reply.policy_version for group in groups for reply in group.completions} for groups in rounds(run)]
    assert versions == [{0}, {0}, {1}, {1}]
    assert not list(run.glob("servers/*.json")), "servers end with the job"
    assert not subprocess.run(["pgrep", "-f", f"rollout.server {run} "], capture_output=True, text=True).stdout
    assert max(line["rollout/logprob_difference_max"] for line in metrics_of(run) if line["step"]) < 1e-3
