"""Attention by blocks of queries equals the formula over whole matrices in float64, and PyTorch's kernel."""

from functools import cache
from typing import Any

import pytest
import torch

from psychocounsel.data.layout import Layout
from psychocounsel.model import attention
from psychocounsel.model.cpu import blockwise

# Two prompts with two completions each, one prompt longer than a block, and padding.
LAYOUT = Layout([35, 200, 141, 150, 33, 60, 13], [0, 0, 0, 3, 3, 3, 6])


@cache
def visible(window: int | None) -> torch.Tensor:
    """Return bool[T, T] from the definition: True if a token of `LAYOUT` sees another one."""
    piece = [number for number, size in enumerate(LAYOUT.sizes) for _ in range(size)]
    position = []
    for number, (size, prompt) in enumerate(zip(LAYOUT.sizes, LAYOUT.prompts, strict=True)):
        first = 0 if prompt == number else LAYOUT.sizes[prompt]
        position += range(first, first + size)
    rows = [
        [
            piece[key] in (piece[token], LAYOUT.prompts[piece[token]])
            and 0 <= position[token] - position[key] < (window or len(piece))
            for key in range(len(piece))
        ]
        for token in range(len(piece))
    ]
    return torch.tensor(rows)


def formula(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor, scale: float
) -> torch.Tensor:
    shared = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(shared, 1) for part in (key, value))
    scores = (query @ key.mT * scale).masked_fill(~seen, -torch.inf)
    return scores.softmax(-1) @ value


def tensors(heads: int, kv_heads: int, size: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(heads)
    tokens = sum(LAYOUT.sizes)
    shapes = [(1, tokens, count, size) for count in (heads, kv_heads, kv_heads, heads)]
    return [torch.randn(shape, generator=generator).transpose(1, 2) for shape in shapes]


@pytest.mark.parametrize("window", [None, 1, 37, 128, 500])
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(6, 2, 64), (4, 4, 32), (8, 1, 32)])
@pytest.mark.parametrize("large", [0, 50_000, 10**9], ids=["heads one by one", "as it chooses", "heads at once"])
def test_blocks_are_the_formula(
    heads: int, kv_heads: int, size: int, window: int | None, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise, "_LARGE", large)
    *parts, slope = tensors(heads, kv_heads, size)
    scale = 0.2
    mine = [part.clone().requires_grad_() for part in parts]
    output = blockwise.Blockwise.apply(*mine, LAYOUT, scale, window)
    output.backward(slope)
    exact = [part.double().requires_grad_() for part in parts]
    expected = formula(*exact, visible(window), scale)
    expected.backward(slope.double())
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=3e-6)
    for one, other in zip(mine, exact, strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-5, atol=2e-5)


def test_one_thread_computes_by_blocks_and_all_ways_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    *parts, slope = tensors(6, 2, 64)
    used: list[int] = []
    apply = blockwise.Blockwise.apply

    def noted(*given: object) -> torch.Tensor:
        used.append(torch.get_num_threads())
        return apply(*given)

    monkeypatch.setattr(blockwise.Blockwise, "apply", noted)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            query, key, value = (part.clone().requires_grad_() for part in parts)
            output, _ = attention.varlen_attention(torch.nn.Module(), query, key, value, None, layout=LAYOUT)
            output.backward(slope.transpose(1, 2))
            found.append([output, query.grad, key.grad, value.grad])
    finally:
        torch.set_num_threads(threads)
    assert used == [1], "PyTorch's kernel is faster with more threads"
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_bfloat16_has_a_smaller_error_than_the_kernel_of_pytorch() -> None:
    exact = [part.bfloat16().double() for part in tensors(6, 2, 64)]

    def results(apply: Any, dtype: torch.dtype) -> list[torch.Tensor]:
        *parts, slope = (part.to(dtype).clone() for part in exact)
        output = apply(*(part.requires_grad_() for part in parts), LAYOUT, None, None)
        output.backward(slope)
        assert output.dtype == parts[0].grad.dtype == dtype
        return [tensor.detach().double() for tensor in (output, *(part.grad for part in parts))]

    expected = results(attention._Sequences.apply, torch.float64)
    mine, kernel = (
        [
            float((one - right).norm() / right.norm())
            for one, right in zip(results(apply, torch.bfloat16), expected, strict=True)
        ]
        for apply in (blockwise.Blockwise.apply, attention._Sequences.apply)
    )
    assert max(mine) < 2e-3, "output and gradients are rounded once"
    assert all(one < other for one, other in zip(mine, kernel, strict=True))


@pytest.mark.parametrize(
    "query",
    [
        torch.zeros(1, 4, 8, 64, dtype=torch.float16),
        torch.zeros(1, 4, 8, 64, dtype=torch.float64),
        torch.zeros(2, 4, 8, 64),
        torch.zeros(1, 4, 8, 16),
    ],
    ids=["float16", "float64", "two rows", "small heads"],
)
def test_what_is_left_to_the_kernel(query: torch.Tensor) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert blockwise.suits_blocks(query.new_zeros(1, 4, 8, 64, dtype=torch.float32))
        assert not blockwise.suits_blocks(query)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (4, 4)])
@pytest.mark.parametrize(
    "layout", [Layout([32, 96], [0, 0]), Layout([20, 107], [0, 0])], ids=["full", "to be filled up"]
)
def test_matrices_have_no_gaps_between_rows(heads: int, kv_heads: int, layout: Layout) -> None:
    """For matrices with gaps, oneDNN has only its reference code, which is a hundred times as slow."""
    query, key = (torch.randn(1, sum(layout.sizes), count, 512).transpose(1, 2) for count in (heads, kv_heads))
    (span,) = layout.sequences
    sequence = blockwise._Sequence(span, query, key)
    assert sequence.one_by_one
    assert sequence.seen(key).is_contiguous()
    assert all(block.take(query, kv_heads).is_contiguous() for block in sequence.blocks(None))
