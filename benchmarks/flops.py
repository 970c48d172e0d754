"""Model FLOPs of a training step, and the machine's measured peak: `python -m benchmarks.flops DEVICE DTYPE SIZE...`."""

import itertools
import sys
import time
from collections.abc import Sequence

from benchmarks.sizes import Geometry

Lengths = Sequence[tuple[int, Sequence[int]]]  # (tokens of the prompt, tokens of each of its replies) per row


def training_flops(geometry: Geometry, lengths: Lengths) -> float:
    """Return the FLOPs of forward and backward passes over the rows, as 3 x forward.

    Each prompt counts once, and recomputation is not counted. Forward FLOPs are 2 per weight and token for each matrix
    product (for the output layer, reply tokens only), plus 2 x 2 x heads x head size in attention for each pair of a
    position and a position visible to it.
    """
    hidden, layers = geometry["hidden_size"], geometry["num_hidden_layers"]
    head = hidden // geometry["num_attention_heads"]
    attention = 2 * hidden * hidden + 2 * hidden * head * geometry["num_key_value_heads"]
    weights = layers * (attention + 3 * hidden * geometry["intermediate_size"])
    replies = sum(sum(row) for _, row in lengths)
    tokens = replies + sum(prompt for prompt, _ in lengths)
    visible = sum(_triangle(prompt) + sum(prompt * n + _triangle(n) for n in row) for prompt, row in lengths)
    products = 2 * weights * tokens + 2 * hidden * geometry["vocab_size"] * replies
    return 3.0 * (products + 4 * hidden * layers * visible)


def _triangle(tokens: int) -> float:
    return tokens * (tokens + 1) / 2


def measured_peak(device: str, dtype: str, sizes: Sequence[int], seconds: float = 3.0) -> float:
    """Return FLOPs per second of the fastest square matrix product.

    PyTorch's product and ours are each tried for `seconds` at every size.
    """
    import torch

    from psychocounsel.model.cpu import product

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    best = 0.0
    for size, multiply in itertools.product(sizes, (torch.matmul, product)):
        a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
        multiply(a, b)
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            wait()
            started = time.perf_counter()
            multiply(a, b)
            wait()
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


if __name__ == "__main__":
    print(measured_peak(sys.argv[1], sys.argv[2], [int(size) for size in sys.argv[3:]]))
