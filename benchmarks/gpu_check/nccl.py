"""Rows of NCCL: a server that receives weights by it, and its bandwidth."""

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu_check.training_equality import Verdict, tokens_of
from benchmarks.training_runs import ROOT

_BANDWIDTH_GOAL = 20  # GB/s: GPUs on PCIe 4 reach it, and NVLink ten times as much
_ONLINE = (
    *("algo=online_dpo", "rollout=vllm_server", "cluster.processes=1", "max_steps=3", "data.limit=64", "eval.every=0"),
    *("global_batch_size=8", "algo.prompts_per_round=8", "algo.warmup=0"),  # each step has a round
)


def weights(folder: Path, data: Path) -> Verdict:
    """Compare the replies of two runs of three rounds: their server, on the second GPU, gets weights by NCCL or by HTTP."""
    replies = {}
    for transfer in ("collective", "http"):
        run = folder / transfer
        typed = [*_ONLINE, "cluster.device=cuda", f"rollout.transfer={transfer}", f"run_dir={run}"]
        environment = os.environ | {"PSYCHOCOUNSEL_CACHE": str(folder / "cache")}
        command = [sys.executable, "-m", "psychocounsel.train", *typed]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"rollout.transfer={transfer}: {done.stderr.strip().splitlines()[-1]}")
        replies[transfer] = tokens_of(run)
    count = len(replies["http"])
    equal = sum(one == other for one, other in zip(replies["collective"], replies["http"], strict=True))
    return equal == count > 0, f"{equal} of {count} replies are equal", {"equal": equal, "replies": count}


def bandwidth(folder: Path, data: Path) -> Verdict:
    import torch

    speed = all_reduce(folder, torch.cuda.device_count(), "nccl", 10**9)
    return speed >= _BANDWIDTH_GOAL, f"{speed:.0f} GB/s on each GPU", {"gb_per_second": speed}


def all_reduce(folder: Path, ranks: int, backend: str, size: int) -> float:
    """Return the bandwidth [GB/s] at which each of `ranks` processes sends data in an all-reduce of `size` bytes.

    In a ring, each process sends 2 (ranks - 1) / ranks of the bytes.
    """
    from torch import multiprocessing

    multiprocessing.spawn(_reduce, (ranks, backend, size, str(folder)), nprocs=ranks)
    return 2 * (ranks - 1) / ranks * size / 1e9 / float((folder / "seconds").read_text())


def _reduce(rank: int, ranks: int, backend: str, size: int, folder: str) -> None:
    """Write the seconds of one all-reduce, the mean of ten after one that warms up, to `folder`/seconds."""
    import torch
    from torch import distributed

    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    distributed.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    tensor = torch.zeros(size // 2, dtype=torch.bfloat16, device=device)
    times = []
    for repeats in (1, 10):
        started = time.perf_counter()
        for _ in range(repeats):
            distributed.all_reduce(tensor)
        float(tensor[0])  # waits for the GPU
        times.append((time.perf_counter() - started) / repeats)
    if rank == 0:
        Path(folder, "seconds").write_text(str(times[-1]))
    distributed.destroy_process_group()
