"""Estimated memory of a process on CPU, in one line, without torch."""

import os
import re
from pathlib import Path

from omegaconf import DictConfig

from psychocounsel.cluster.memory.fitting import choose, with_values
from psychocounsel.cluster.memory.gpu import (
    activation_bytes,
    estimate,
    learned_weights,
    trained_parameters,
    trained_shape,
)
from psychocounsel.model.shape import Shape

_LIBRARIES = 0.5e9  # memory of PyTorch, transformers and DeepSpeed
_PRODUCTS = 0.2e9  # products that oneDNN compiles in bfloat16, and keeps (model/cpu/process.py)
_LOGITS = 0.13e9  # 64 MB of stored logits (model/output_layer.py), and the same amount to recompute others
_LANES_UP_TO = 250_000_000  # most weights for two lanes, as in model/cpu/lanes.py
# Activations relative to a GPU's in the same dtype, measured by benchmarks/cpu_memory.py: float32 layers keep less for backward,
# and bfloat16 norms keep float32 copies.
_KEPT = {4.0: 0.9, 2.0: 1.25}
_COUNTED_HERE = ("states", "critic", "gathered weights and buckets")  # parts of the GPU estimate that differ on CPU


def cpu_memory_line(config: DictConfig, processes: int) -> str:
    """Return a line with the memory of each of `processes` on CPU, its parts, and the memory of this machine per process."""
    shape, name = trained_shape(config), config.model.name
    if shape is None:
        return f"{name}: memory unknown, because the config.json of model.path={config.model.path} is not here"
    config = with_values(config, choose(shape, config, 0, 0.0))
    parts = cpu_parts(shape, config, processes)
    total, available = sum(parts.values()) / 1e9, machine_bytes() / 1e9 / processes
    listed = ", ".join(f"{part} {bytes_ / 1e9:.1f}" for part, bytes_ in parts.items())
    line = f"{name}: memory per process on CPU: about {total:.1f} GB ({listed}) of {available:.0f} GB"
    if total <= available:
        return line
    if parts["weights"] / 1e9 > available:
        advice = "the weights alone need more, so use a GPU or a larger machine"
    else:
        advice = _less(config, _lanes(shape, config, processes))
    return f"{line}; MORE THAN this machine has: {advice}"


def cpu_parts(shape: Shape, config: DictConfig, processes: int) -> dict[str, float]:
    """Return the bytes of a process by purpose; in `config`, only micro_batch_tokens may be "auto"."""
    learning, stage, adapters = learned_weights(shape, config), config.zero.stage, config.model.lora.rank
    width = 2.0 if config.model.dtype == "bf16" else 4.0
    # The estimate is for a GPU, where "auto" means bfloat16.
    on_cpu = [f"{key}.dtype" for key in ("model", "reward") if key in config and config[key].get("dtype") == "auto"]
    on_gpu = estimate(shape, with_values(config, dict.fromkeys(on_cpu, "fp32")), processes)
    master = 4.0 if width == 2 else 0.0  # float32 copies of bfloat16 weights
    frozen = width * shape.parameters if adapters else 0.0
    trained = width * learning / (processes if stage == 3 else 1)
    parts = {
        "weights": frozen + trained,
        "gradients": 4.0 * learning * _lanes(shape, config, processes) / (processes if stage >= 2 else 1),
        "optimizer": (8.0 + master) * learning / (processes if stage else 1),
        "activations": activation_bytes(shape, config) * width / 2 * _KEPT[width] + _LOGITS,
    }
    if config.checkpoint.background and (config.checkpoint.every or config.checkpoint.minutes):
        # Buffers that the first checkpoint makes and later ones use again: float32 weights and moments.
        parts["copies for checkpoints"] = 12.0 * trained_parameters(shape, config) / processes
    if critic := on_gpu.held.get("critic"):
        parts["critic"] = critic * (14 + master) / 18  # the estimate for a GPU is that of bfloat16
        parts["activations"] *= 2
    others = {name: bytes_ for name, bytes_ in {**on_gpu.held, **on_gpu.frozen}.items() if name not in _COUNTED_HERE}
    return parts | others | {"libraries": _LIBRARIES + (_PRODUCTS if width == 2 else 0.0)}


def _lanes(shape: Shape, config: DictConfig, processes: int) -> int:
    """Return the same as `model.cpu.micro_batches_at_once`, without torch."""
    threads = config.cluster.get("threads") or os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))
    several = config.engine.two_lanes and processes == 1 and int(threads) >= 2
    plain = config.zero.stage == 0 and not config.model.lora.rank and not config.model.gradient_checkpointing
    return 2 if several and plain and shape.parameters <= _LANES_UP_TO else 1


def machine_bytes() -> float:
    """Return the bytes of this machine's memory; infinity where the system does not say."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return float(match[1]) * 1024 if match else float("inf")


def _less(config: DictConfig, lanes: int) -> str:
    typed = {
        "engine.two_lanes=false": lanes > 1,
        "model.gradient_checkpointing=true": not config.model.gradient_checkpointing,
        "model.lora.rank=16": not config.model.lora.rank,
    }
    return f"try {', '.join([*(text for text, helps in typed.items() if helps), 'a smaller micro_batch_tokens'])}"
