"""Rows that compare training runs: on GPUs with the CPU, and with each other."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.training_runs import ROOT
from psychocounsel.data.group import read_groups
from psychocounsel.rundir.results import read_metrics

Verdict = tuple[bool, str, dict[str, Any]]

STAGES = ("0", "1", "2", "3", "2_offload", "3_offload")
_ALLOWED = 1e-3  # largest allowed relative difference; both sides use float32
_STEPS = 3
_FIGURES = ("loss", "grad_norm")
_COMMON = (
    *(
        "model.dtype=fp32",
        f"max_steps={_STEPS}",
        "global_batch_size=8",
        "data.limit=64",
        "eval.every=0",
        "algo.warmup=0",
    ),
)
_DPO = ("algo=dpo", "cluster.processes=1")
_PPO = (
    "algo=ppo",
    "cluster.processes=1",
    "algo.samples=2",
    "algo.prompts_per_round=8",
    "algo.critic=reward",
    "rollout.max_tokens=16",
    "deterministic=true",
)
_ONLINE_DPO = (
    "algo=online_dpo",
    "cluster.processes=1",
    "rollout=vllm",
    "rollout.max_tokens=32",
    "algo.prompts_per_round=8",
)


def zero(folder: Path, data: Path) -> Verdict:
    return compare(folder, STAGES, "cuda")


def compare(folder: Path, stages: Sequence[str], device: str, processes: int = 1) -> Verdict:
    """Compare the first steps of DPO at `stages` on `device` with ZeRO-0 in one process on the CPU."""
    several = ("micro_batch_tokens=1024", "zero.bucket_elements=100000") if processes > 1 else ()
    runs = {
        stage: ("algo=dpo", f"cluster.processes={processes}", f"zero={stage}", f"cluster.device={device}", *several)
        for stage in stages
    }
    return against_first(folder, {"cpu": (*_DPO, "zero=0", "cluster.device=cpu"), **runs})


def zero_of_two(folder: Path, data: Path) -> Verdict:
    return compare(folder, ("1", "2", "3"), "cuda", processes=2)


def lora(folder: Path, data: Path) -> Verdict:
    return compare_lora(folder, "cuda")


def compare_lora(folder: Path, device: str) -> Verdict:
    """Compare the first steps of DPO with an adapter on `device` with those on the CPU."""
    places = {"cpu": "cpu", "device": device}
    return against_first(
        folder, {name: (*_DPO, "model.lora.rank=8", f"cluster.device={place}") for name, place in places.items()}
    )


def reshard(folder: Path, data: Path) -> Verdict:
    return compare_reshard(folder, "cuda")


def compare_reshard(folder: Path, device: str) -> Verdict:
    """Compare two runs: one resumes at ZeRO-2 from a checkpoint of ZeRO-3, the other trains at ZeRO-2 throughout."""
    common = (*_DPO, f"cluster.device={device}", "algo.schedule=constant", "checkpoint.every=1")
    begun = {"moved": (*common, "zero=3", f"max_steps={_STEPS - 1}")}
    wait_for({"moved": start(folder / "moved", *begun["moved"])})
    return against_first(folder, {"stayed": (*common, "zero=2"), "moved": (*common, "zero=2")})


def offload(folder: Path, data: Path) -> Verdict:
    return compare_offload(folder, "cuda")


def compare_offload(folder: Path, device: str) -> Verdict:
    """Compare PPO on `device` with and without `rollout.offload_idle`."""
    return against_first(
        folder,
        {
            f"offload-{word}": (*_PPO, f"rollout.offload_idle={word}", f"cluster.device={device}")
            for word in ("true", "false")
        },
    )


def vllm_offload(folder: Path, data: Path) -> Verdict:
    """Compare online DPO by vLLM at ZeRO-3 with and without `rollout.offload_idle`."""
    return with_replies(
        folder, {f"offload-{word}": (f"rollout.offload_idle={word}", "zero=3") for word in ("true", "false")}
    )


def tensor_parallel(folder: Path, data: Path) -> Verdict:
    """Compare online DPO of two processes that share one engine with that of two engines."""
    two = ("cluster.processes=2", "zero=1")
    return with_replies(folder, {f"engine-{gpus}": (*two, f"rollout.tensor_parallel={gpus}") for gpus in (1, 2)})


def with_replies(folder: Path, runs: Mapping[str, Sequence[str]]) -> Verdict:
    """Compare two runs of online DPO by vLLM, by their steps and by their replies."""
    typed = {name: (*_ONLINE_DPO, *more, "cluster.device=cuda") for name, more in runs.items()}
    met, figure, values = against_first(folder, typed, at_once=False)
    first, second = (tokens_of(folder / name) for name in runs)
    equal = first == second != []
    return met and equal, figure if equal else f"{figure}; replies differ", values | {"equal replies": equal}


def against_first(folder: Path, runs: Mapping[str, Sequence[str]], at_once: bool = True) -> Verdict:
    """Compare losses and gradient norms of the first of `runs` (overrides by name) with those of the others.

    All run `at_once`, unless an inference engine needs most of the GPU, because the model is small.
    """
    started = {}
    for name, typed in runs.items():
        started[name] = start(folder / name, *typed)
        if not at_once:
            wait_for({name: started[name]})
    if at_once:
        wait_for(started)
    truth, *others = runs
    differences = {name: difference(figures(folder / name), figures(folder / truth)) for name in others}
    worst = max(differences, key=lambda name: differences[name])
    return differences[worst] <= _ALLOWED, f"at most {differences[worst]:.1e} ({worst} against {truth})", differences


def wait_for(runs: dict[str, subprocess.Popen[str]]) -> None:
    """Wait until all runs have ended.

    Raises:
        RuntimeError: if a run failed, with the last line of its errors.
    """
    said = {name: process.communicate()[1] for name, process in runs.items()}
    if broken := [name for name, process in runs.items() if process.returncode]:
        last = [line for line in said[broken[0]].splitlines() if line.strip()][-1:]
        raise RuntimeError(f"{broken[0]}: {last[0] if last else 'ended without a message'}")


def start(run: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "psychocounsel.train", *_COMMON, *overrides, f"run_dir={run}"]
    environment = os.environ | {"PSYCHOCOUNSEL_CACHE": str(run.parent / "cache")}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def figures(run: Path) -> list[float]:
    """Return loss and gradient norm of each step.

    Raises:
        RuntimeError: if the metrics do not have all steps.
    """
    lines = [line for line in read_metrics(run / "metrics.jsonl") if all(name in line for name in _FIGURES)]
    if len(lines) != _STEPS:
        raise RuntimeError(f"{run}: metrics.jsonl has {len(lines)} steps, but {_STEPS} are expected")
    return [line[name] for line in lines for name in _FIGURES]


def difference(values: list[float], truth: list[float]) -> float:
    """Return the largest relative difference."""
    return max(abs(one - other) / abs(other) for one, other in zip(values, truth, strict=True))


def tokens_of(run: Path) -> list[list[int]]:
    files = sorted(run.glob("rounds/*/shard-*.parquet"))
    return [reply.ids.tolist() for file in files for group in read_groups(file) for reply in group.completions]
