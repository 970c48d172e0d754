"""The row of ZeRO: the command `train` on the GPU at each stage, beside the same command on the CPU."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.training_runs import ROOT
from psychocounsel.rundir.metrics import read_metrics

Verdict = tuple[bool, str, dict[str, Any]]

STAGES = ("0", "1", "2", "3", "2_offload", "3_offload")
_ALLOWED = 1e-3  # relative: float32 on both sides
_STEPS = 3
_FIGURES = ("loss", "grad_norm")
_COMMON = (
    *("algo=dpo", "model.dtype=fp32", f"max_steps={_STEPS}", "global_batch_size=8", "data.limit=64", "eval.every=0"),
    *("cluster.processes=1", "algo.warmup=0"),
)


def zero(folder: Path, data: Path) -> Verdict:
    return compare(folder, STAGES, "cuda")


def compare(folder: Path, stages: tuple[str, ...], device: str) -> Verdict:
    """Loss and norm of the gradients of the first steps at `stages` on `device`, beside ZeRO-0 on the CPU.

    The runs go on side by side: the model is small.
    """
    runs = {stage: start(folder / f"zero-{stage}", f"zero={stage}", f"cluster.device={device}") for stage in stages}
    runs["cpu"] = start(folder / "cpu", "zero=0", "cluster.device=cpu")
    said = {name: process.communicate()[1] for name, process in runs.items()}
    if broken := [name for name, process in runs.items() if process.returncode]:
        last = [line for line in said[broken[0]].splitlines() if line.strip()][-1:]
        raise RuntimeError(f"zero={broken[0]}: {last[0] if last else 'ended without a word'}")
    truth = figures(folder / "cpu")
    differences = {stage: difference(figures(folder / f"zero-{stage}"), truth) for stage in stages}
    worst = max(differences, key=lambda stage: differences[stage])
    return differences[worst] <= _ALLOWED, f"at most {differences[worst]:.1e} (zero={worst})", differences


def start(run: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "psychocounsel.train", *_COMMON, *overrides, f"run_dir={run}"]
    environment = os.environ | {"PSYCHOCOUNSEL_CACHE": str(run.parent / "cache")}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def figures(run: Path) -> list[float]:
    """Loss and gradient norm of each step."""
    lines = [line for line in read_metrics(run / "metrics.jsonl") if all(name in line for name in _FIGURES)]
    if len(lines) != _STEPS:
        raise RuntimeError(f"{run}: has metrics of {len(lines)} steps, not of {_STEPS}")
    return [line[name] for line in lines for name in _FIGURES]


def difference(values: list[float], truth: list[float]) -> float:
    """The largest relative difference."""
    return max(abs(one - other) / abs(other) for one, other in zip(values, truth, strict=True))
