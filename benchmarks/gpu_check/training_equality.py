"""Rows that compare training runs: each ZeRO stage with the CPU, and PPO with and without offloading of idle models."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.training_runs import ROOT
from psychocounsel.rundir.results import read_metrics

Verdict = tuple[bool, str, dict[str, Any]]

STAGES = ("0", "1", "2", "3", "2_offload", "3_offload")
_ALLOWED = 1e-3  # largest allowed relative difference; both sides use float32
_STEPS = 3
_FIGURES = ("loss", "grad_norm")
_COMMON = (
    *("algo=dpo", "model.dtype=fp32", f"max_steps={_STEPS}", "global_batch_size=8", "data.limit=64", "eval.every=0"),
    *("cluster.processes=1", "algo.warmup=0"),
)


def zero(folder: Path, data: Path) -> Verdict:
    return compare(folder, STAGES, "cuda")


_PPO = ("algo=ppo", "algo.samples=2", "algo.critic=reward", "rollout.max_tokens=16", "deterministic=true")


def offload(folder: Path, data: Path) -> Verdict:
    return compare_offload(folder, "cuda")


def compare_offload(folder: Path, device: str) -> Verdict:
    """Compare losses and gradient norms of PPO on `device` with and without `rollout.offload_idle`."""
    words = ("true", "false")
    given = {word: (*_PPO, f"rollout.offload_idle={word}", f"cluster.device={device}") for word in words}
    runs = {word: start(folder / f"offload-{word}", *typed) for word, typed in given.items()}
    wait_for(runs)
    away, there = (figures(folder / f"offload-{word}") for word in words)
    found = difference(away, there)
    return found <= _ALLOWED, f"{found:.1e}", {"difference": found}


def compare(folder: Path, stages: tuple[str, ...], device: str) -> Verdict:
    """Compare losses and gradient norms of the first steps at `stages` on `device` with ZeRO-0 on the CPU.

    All runs are concurrent, because the model is small.
    """
    runs = {
        f"zero={stage}": start(folder / f"zero-{stage}", f"zero={stage}", f"cluster.device={device}")
        for stage in stages
    }
    runs["cpu"] = start(folder / "cpu", "zero=0", "cluster.device=cpu")
    wait_for(runs)
    truth = figures(folder / "cpu")
    differences = {stage: difference(figures(folder / f"zero-{stage}"), truth) for stage in stages}
    worst = max(differences, key=lambda stage: differences[stage])
    return differences[worst] <= _ALLOWED, f"at most {differences[worst]:.1e} (zero={worst})", differences


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
