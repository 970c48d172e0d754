"""Speed of training: floating-point operations that a group needs, and the share of the machine's that is used."""

import resource
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from psychocounsel.data.group import Group
from psychocounsel.distributed.world import World
from psychocounsel.engine.zero import Engine
from psychocounsel.model.attention import sliding_window
from psychocounsel.model.cpu import product


class TrainingFlops:
    """Counts the operations that training on a group needs, after PaLM (arXiv 2204.02311, appendix B).

    Only useful work is counted: a shared prompt once, the output layer only at trained tokens, nothing that is
    recomputed. Per token, a weight of a linear layer costs 2 operations forward, 2 backward towards its input, and 2
    more for its own gradient if it is trained. Each pair of a token and a token that it sees costs 4 x heads x head
    size forward, and twice that backward.
    """

    def __init__(self, lm: Any) -> None:
        config = lm.config.get_text_config()
        output = lm.get_output_embeddings()
        linear = [part for part in lm.modules() if isinstance(part, nn.Linear) and part is not output]
        self.per_token = sum(map(_per_token, linear))
        self.per_trained_token = _per_token(output) if isinstance(output, nn.Linear) else 0
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        kinds = getattr(config, "layer_types", None)
        window = sliding_window(config)
        kinds = kinds or ["sliding_attention" if window else "full_attention"] * config.num_hidden_layers
        self.per_pair = 12 * heads * size
        self.windows = [window if kind == "sliding_attention" else None for kind in kinds]

    def of(self, groups: Sequence[Group]) -> int:
        tokens = sum(group.tokens for group in groups)
        trained_tokens = sum(sum(group.trained_lengths) for group in groups)
        pairs = {window: sum(_pairs(group, window) for group in groups) for window in set(self.windows)}
        attention = self.per_pair * sum(pairs[window] for window in self.windows)
        return tokens * self.per_token + trained_tokens * self.per_trained_token + attention


def _per_token(layer: nn.Linear) -> int:
    trained = layer.weight.requires_grad
    return (6 if trained else 4) * layer.in_features * layer.out_features


def _pairs(group: Group, window: int | None) -> int:
    """Return the number of pairs of a token and a token that it sees."""
    prompt = len(group.prompt_ids)
    whole = [_causal(prompt + len(completion.ids), window) for completion in group.completions]
    return sum(whole) - (len(whole) - 1) * _causal(prompt, window)


def _causal(length: int, window: int | None) -> int:
    near = min(length, window or length)
    return near * (near + 1) // 2 + (length - near) * near


_SIZE = {"cpu": 1536, "cuda": 8192}
_REPEATS = 4
_SECONDS = 0.05  # limit on CPU, because short runs on one thread would otherwise spend a tenth of their time here


class Speed:
    """Measures tokens per second and MFU (model FLOPs utilisation).

    MFU is the operations that training needs (`TrainingFlops`) / (seconds x peak of all devices). The peak is the
    measured speed of a large matrix product on these devices in the dtype of training. On GPU it is below the vendor's
    figure, so this MFU is a little higher than one computed with the vendor's figure.
    """

    def __init__(self, engine: Engine, world: World) -> None:
        self.flops = TrainingFlops(engine.module.lm)
        (self.peak,) = world.sum([_peak_flops(world.device, engine.dtype)])
        if world.device.type == "cuda":  # the measured product, and loading, are no part of the training's peak memory
            torch.cuda.reset_peak_memory_stats(world.device)

    def of(self, groups: Sequence[Group], seconds: float) -> dict[str, float]:
        """Return the metrics of a step of `seconds` on the `groups` of all ranks; the memory is this process's."""
        tokens = sum(group.tokens for group in groups)
        return {
            "tokens": tokens,
            "step_seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "mfu": self.flops.of(groups) / (seconds * self.peak),
            "peak_memory_gb": peak_memory_gb(),
        }


def _peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of a large matrix product: the best of a few."""
    size = _SIZE[device.type]
    # The matrix is random, because an H200 multiplies matrices of equal numbers 12 % faster than those of a model.
    generator = torch.Generator(device).manual_seed(0)
    matrix = torch.randn(size, size, device=device, dtype=dtype, generator=generator)
    seconds = [_seconds(matrix)]  # on GPU the first product loads the kernels that the others use
    while len(seconds) <= _REPEATS and (matrix.is_cuda or sum(seconds) < _SECONDS):
        seconds.append(_seconds(matrix))
    return 2 * size**3 / min(seconds)


def _seconds(matrix: torch.Tensor) -> float:
    started = time.perf_counter()
    product(matrix, matrix)
    if matrix.is_cuda:
        torch.cuda.synchronize(matrix.device)
    return time.perf_counter() - started


def peak_memory_gb() -> float:
    """Return the peak memory of this process so far [10^9 bytes]: of its GPU if it uses one, otherwise resident in RAM."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def gpu_names(device: torch.device) -> list[str]:
    """Return the names of this node's GPUs if training uses them, otherwise []."""
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    return [torch.cuda.get_device_name(index) for index in range(count)]
