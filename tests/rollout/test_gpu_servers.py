"""Servers next to training on GPUs, as far as CPU can test it: their GPUs, their environment, and rejected settings."""

import json
import os
from pathlib import Path

import pytest
import torch

from psychocounsel.errors import UserError
from psychocounsel.rollout.local_servers import LocalServers, gpus_of_servers
from psychocounsel.rundir.run_config import write_config
from tests.support.composed import check, compose

# Replaces vLLM if it is not installed: reports the environment of its import, and ends the server.
STAND_IN = """
import json, os, sys, torch
found = {"variables": dict(os.environ), "torch_has_begun": torch.cuda.is_initialized()}
with open(os.environ["SAID"], "w") as file:
    json.dump(found, file)
raise ImportError("no vLLM here")
"""


def test_servers_that_may_start_longer_than_the_watchdog_waits_are_refused() -> None:
    typed = ["algo=online_dpo", "rollout=vllm_server", "rollout.start_minutes=45"]
    told = "rollout.start_minutes=45: a run that waits for engine.watchdog_minutes=30 is ended; add engine.watchdog_minutes=55"
    with pytest.raises(UserError, match=told):
        check(compose(typed))


@pytest.mark.parametrize(
    ("visible", "training", "count", "each", "expected"),
    [
        ("0,1,2,3,4,5,6,7", 7, 1, 1, ["7"]),
        ("0,1,2,3,4,5,6,7", 4, 2, 2, ["4,5", "6,7"]),
        ("3,5,7", 1, 2, 1, ["5", "7"]),
        ("GPU-a,GPU-b", 1, 1, 1, ["GPU-b"]),
    ],
)
def test_servers_have_the_gpus_after_those_of_training(
    visible: str, training: int, count: int, each: int, expected: list[str]
) -> None:
    assert gpus_of_servers(visible.split(","), training, count, each) == expected


def test_a_server_without_a_gpu_is_refused_before_the_start() -> None:
    with pytest.raises(
        UserError, match="need 1 of .*, but only 0 are left beside the 8 that train: use cluster.processes=7, "
    ):
        gpus_of_servers([*"01234567"], 8, 1, 1)
    with pytest.raises(UserError, match="but only 1 are left beside the 1 that train: use cluster.server_nodes=1 "):
        gpus_of_servers([*"01"], 1, 1, 2)


@pytest.mark.parametrize(
    ("nodes", "processes", "told"),
    [("1", "null", "cluster.processes=7,"), ("2", "16", "cluster.processes=14,")],
)
def test_too_few_gpus_are_refused_at_submission(nodes: str, processes: str, told: str) -> None:
    cluster = ["cluster=slurm", f"cluster.nodes={nodes}", "cluster.gpus_per_node=8", f"cluster.processes={processes}"]
    with pytest.raises(UserError, match=f"but only 0 are left beside the 8 that train: use {told}"):
        check(compose(["algo=online_dpo", "rollout=vllm_server", *cluster]))


@pytest.mark.parametrize(("gpus", "each", "servers"), [(8, 1, 8), (8, 2, 4), (8, 3, 2), (0, 1, 1)])
def test_a_server_node_runs_as_many_servers_as_its_gpus_allow(gpus: int, each: int, servers: int) -> None:
    device = "cuda" if gpus else "cpu"
    typed = [f"cluster.gpus_per_node={gpus}", f"cluster.device={device}", f"rollout.tensor_parallel={each}"]
    config = compose(["algo=grpo", "rollout=vllm_server", "cluster=slurm", "cluster.server_nodes=2", *typed])
    assert config.cluster.servers.per_node == servers


def test_a_server_that_needs_more_gpus_than_a_node_has_is_refused() -> None:
    typed = ["cluster.gpus_per_node=2", "rollout.tensor_parallel=4", "cluster.server_nodes=1"]
    with pytest.raises(
        UserError, match=r"tensor_parallel=4: a server needs its GPUs on one node, but .*gpus_per_node=2"
    ):
        check(compose(["algo=grpo", "rollout=vllm_server", "cluster=slurm", *typed]))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    run.mkdir()
    here = [f"run_dir={run}", f"paths.cache={tmp_path / 'cache'}", "rollout.max_tokens=96", "algo.lr=1e-6"]
    write_config(run, compose(["algo=online_dpo", "rollout=vllm_server", *here]))
    return run


@pytest.mark.slow
def test_a_server_sets_its_environment_before_vllm_is_imported(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("vllm", "uvicorn"):
        (tmp_path / "stands-in" / package).mkdir(parents=True)
        (tmp_path / "stands-in" / package / "__init__.py").write_text(STAND_IN if package == "vllm" else "")
    for name in ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "VLLM_WORKER_MULTIPROC_METHOD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'stands-in'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("SAID", str(tmp_path / "said.json"))
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="no server could be started; the last line of .*server-0.out is: .*no vLLM"):
        LocalServers(run_dir, ["2,3"], 1.0).ready()
    said = json.loads((tmp_path / "said.json").read_text())
    found = said["variables"]
    assert not said["torch_has_begun"] and "RANK" not in found
    assert found["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert found["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    assert found["PYTORCH_NVML_BASED_CUDA_CHECK"] == found["VLLM_NO_USAGE_STATS"] == found["DO_NOT_TRACK"] == "1"
    for name in ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        assert Path(found[name]).parent == tmp_path / "cache"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_server_for_a_gpu_does_not_fall_back_to_cpu(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSYCHOCOUNSEL_DEVICE", "cuda")
    with pytest.raises(UserError, match="the last line of .* is: error: .*(built without CUDA|NVIDIA driver|no GPU)"):
        LocalServers(run_dir, ["0"], 1.0).ready()
