"""Rows at full size with random weights: memory estimate, MFU, and DPO against TRL."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.sizes import CUDA, SMOKE, Sizes, llama
from benchmarks.training_runs import ROOT, Bench, call, run_ours, step_lines
from psychocounsel.cluster.memory import check
from psychocounsel.cluster.memory.gpu import RUNTIME
from psychocounsel.data.shipped_rows import sample_rows
from psychocounsel.rundir.run_config import read_config
from psychocounsel.storage.files import read_json

Verdict = tuple[bool, str, dict[str, Any]]

_MFU_GOAL = 0.5
_ESTIMATE_GOAL = 0.1
_WARM_UP = 2  # steps in which kernels are loaded and memory is allocated
_SMALL = SMOKE.models["small"]  # also for the reward model, which these rows do not train
_1B = replace(CUDA["1b"], models={"small": _SMALL, "large": CUDA["1b"].models["large"]}, scaling_pairs=(1, 1))
_8B = replace(CUDA["8b"], models={"small": _SMALL, "large": CUDA["8b"].models["large"]}, scaling_pairs=(1, 1))
_WIDE = replace(_1B, models={"small": _SMALL, "large": llama(4096, 4, 32, 8, 14_336, 128_256)}, mfu_pairs=64)


def mfu_1b(folder: Path, data: Path) -> Verdict:
    return mfu(make_bench(folder, data, _1B))


def mfu_8b_wide(folder: Path, data: Path) -> Verdict:
    return mfu(make_bench(folder, data, _WIDE))


def mfu(bench: Bench) -> Verdict:
    """Measure MFU of DPO in bf16 at ZeRO-1 on one GPU, without the warm-up steps."""
    tokens = bench.sizes.mfu_micro_batch_tokens
    run_ours(bench, "dpo", "mfu", model="large", max_steps=5, zero=1, micro_batch_tokens=tokens)
    steps = step_lines(bench.last / "run")[_WARM_UP:]
    value = sum(step["mfu"] for step in steps) / len(steps)
    rate, peak = steps[-1]["tokens_per_second"], steps[-1]["peak_memory_gb"]
    values = {"mfu": value, "tokens_per_second": rate, "peak_memory_gb": peak}
    return value >= _MFU_GOAL, f"{value:.1%}, {rate:,.0f} tokens/s, {peak:.1f} GB", values


def estimate(folder: Path, data: Path) -> Verdict:
    bench = make_bench(folder, data, _1B)
    runs = ({"zero": 1}, {"zero": 2, "model.gradient_checkpointing": "true"})
    found = {", ".join(f"{key}={value}" for key, value in more.items()): estimated(bench, more) for more in runs}
    errors = {name: values["estimate_gb"] / values["peak_gb"] - 1 for name, values in found.items()}
    parts = [
        f"{name}: estimated {values['estimate_gb']:.1f}, measured {values['peak_gb']:.1f} GB ({errors[name]:+.0%})"
        for name, values in found.items()
    ]
    return max(map(abs, errors.values())) <= _ESTIMATE_GOAL, "; ".join(parts), found


def full_8b(folder: Path, data: Path) -> Verdict:
    bench = make_bench(folder, data, _8B)
    found = estimated(bench, {"zero": 1, "model.lora.rank": 16, "model.gradient_checkpointing": "true"})
    error, step = found["estimate_gb"] / found["peak_gb"] - 1, step_lines(bench.last / "run")[-1]
    said = f"estimated {found['estimate_gb']:.1f}, measured {found['peak_gb']:.1f} GB ({error:+.0%}), {step['mfu']:.1%} MFU"
    return abs(error) <= _ESTIMATE_GOAL, f"{said}; {found['host_gb']:.0f} GB of host memory", found


def estimated(bench: Bench, more: dict[str, Any]) -> dict[str, float]:
    """Return figures of a DPO run with the overrides `more` [10^9 bytes]: GPU memory, estimated and measured, and host memory.

    Measured figures are peaks. The estimate's share for the CUDA runtime is subtracted, because torch does not count it.
    """
    run_ours(bench, "dpo", "mfu", model="large", max_steps=3, **more)
    run = bench.last / "run"
    config = read_config(run)
    shape = check.trained_shape(config)
    assert shape is not None, "the model's config.json lies beside its weights"
    total = check.estimate(shape, config, 1).total - RUNTIME
    host = read_json(run / "clock.json")["host_gb"]
    return {"estimate_gb": total / 1e9, "peak_gb": step_lines(run)[-1]["peak_memory_gb"], "host_gb": host}


def trl(folder: Path, data: Path) -> Verdict:
    """Run one repeat of the benchmark's DPO case, with one micro-batch size for TRL."""
    output = folder / "offline.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.offline",
        "--device",
        "cuda",
        "--cases",
        "dpo,memory",
        "--repeats",
        "1",
    ]
    command += ["--trl-micro-batch", "8", "--data", str(data), "--output", str(output), "--scratch", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])
    cases = json.loads(output.read_text())["cases"]
    ratio, share = cases["dpo"]["value"], cases["memory"]["value"]
    return ratio >= 1, f"{ratio:.2f}x as fast as TRL, {share:.2f}x its memory", {"ratio": ratio, "memory_ratio": share}


def make_bench(folder: Path, data: Path, sizes: Sizes, device: str = "cuda") -> Bench:
    """Create a tokenizer, models with random weights and rows, like `benchmarks.offline`, and link them into `folder`.

    Checks of the same sizes share the files, because writing the weights takes half a minute.
    """
    dtype = "bfloat16" if device == "cuda" else "float32"
    spec = {"data": str(data), "sizes": asdict(sizes), "dtype": dtype}
    inputs = folder.parent / f"inputs-{hashlib.sha256(json.dumps(spec).encode()).hexdigest()[:12]}"
    bench = Bench(folder, sizes, device, os.cpu_count() or 1, [])
    if not (inputs / "lengths.json").exists():  # written last
        inputs.mkdir(exist_ok=True)
        (inputs / "spec.json").write_text(json.dumps(spec | {"folder": str(inputs)}))
        call(bench, "-m", "benchmarks.make_inputs", str(inputs / "spec.json"))
    for name in ("tokenizer", "models", "rows", "lengths.json"):
        (folder / name).symlink_to(inputs / name)
    return bench


def write_sample_pairs(file: Path) -> None:
    """Write the shipped sample as pairs of texts: the best-rated reply of a speech against each other one."""
    file.write_text("".join(json.dumps(pair) + "\n" for pair in _sample_pairs()), encoding="utf-8")


def _sample_pairs() -> Iterator[dict[str, str]]:
    for _, row in sample_rows():
        replies = sorted(row["replies"], key=lambda reply: -sum(reply["ratings"].values()))
        for chosen, rejected in itertools.product(replies[:1], replies[1:]):
            yield {"prompt": row["prompt"], "chosen": chosen["text"], "rejected": rejected["text"]}
