"""Causal attention on CPU, in float32, by blocks of queries, with one matrix product for all query heads that share a key head.

PyTorch's fused kernel multiplies small tiles by MKL, and repeats a prompt's queries for each of its completions. On one
thread it took 1.1 to 1.9 times as long. On more threads it is faster, because each thread computes heads of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad

from psychocounsel.data.layout import Layout, Span
from psychocounsel.model.cpu.linear import PRODUCT_ROWS, product

_SMALLEST_HEAD = 32
_LARGE = 50_000  # tokens x head size x queries per key; above it, oneDNN per head is faster than MKL for all heads


def suits_blocks(query: torch.Tensor) -> bool:
    """Return True if `Blockwise` is the fastest attention for a query [B, heads, T, D]."""
    plain = query.dtype in (torch.float32, torch.bfloat16) and query.device.type == "cpu" and len(query) == 1
    return plain and query.shape[-1] >= _SMALLEST_HEAD and torch.get_num_threads() == 1


def blockwise_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scale: float | None, window: int | None
) -> torch.Tensor:
    """Return the causal attention [1, heads, T, D] of each sequence in `layout`; it requires `suits_blocks(query)`.

    `query` is [1, heads, T, D], `key` and `value` are [1, kv_heads, T, D]. `scale` defaults to D**-0.5. A token sees at
    most the last `window` tokens, including itself (None: all).
    """
    output: torch.Tensor = Blockwise.apply(query, key, value, layout, scale, window)
    return output


class Blockwise(torch.autograd.Function):
    """Attention [1, heads, T, D] from queries [1, heads, T, D] and keys and values [1, kv_heads, T, D].

    Each token sees at most `window` tokens, including itself. Only the inputs are kept for backward, which recomputes
    the probabilities. bfloat16 is computed in float32: faster than PyTorch's bfloat16 kernel, and with half of its error.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        layout: Layout,
        scale: float | None,
        window: int | None,
    ) -> torch.Tensor:
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        output = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
        ctx.save_for_backward(query, key, value)
        ctx.how = layout, scale, window
        query, key, value = query.float(), key.float(), value.float()
        for span in layout.sequences:
            sequence = _Sequence(span, query, key)
            keys, values = sequence.seen(key) * scale, sequence.seen(value)
            for block in sequence.blocks(window):
                queries, results = block.take(query, len(keys)), block.part(output, len(keys))
                for heads in sequence.heads:
                    probabilities = block.probabilities(sequence.multiply(queries[heads], keys[heads, block.keys]))
                    block.put(results[heads], sequence.multiply(probabilities, values[heads, block.keys].mT))
        return output

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, grad = (part.float() for part in (*ctx.saved_tensors, grad))
        layout, scale, window = ctx.how
        dtype = ctx.saved_tensors[0].dtype
        to_query, to_key, to_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for span in layout.sequences:
            sequence = _Sequence(span, query, key)
            keys, values = sequence.seen(key) * scale, sequence.seen(value)
            # Transposed, because products of few rows and many columns are 1.5 times as fast as those of many rows and
            # few columns.
            to_keys, to_values = torch.zeros_like(keys.mT), torch.zeros_like(values.mT)
            for block in sequence.blocks(window):
                queries, slopes = block.take(query, len(keys)), block.take(grad, len(keys))
                results = block.part(to_query, len(keys))
                for heads in sequence.heads:
                    near = heads, slice(None), block.keys
                    probabilities = block.probabilities(sequence.multiply(queries[heads], keys[heads, block.keys]))
                    to_values[near] += sequence.multiply(slopes[heads].mT, probabilities.mT)
                    to_probabilities = sequence.multiply(slopes[heads], values[heads, block.keys])
                    to_scores = torch._softmax_backward_data(to_probabilities, probabilities, -1, probabilities.dtype)
                    block.put(results[heads], sequence.multiply(to_scores, keys[heads, block.keys].mT))
                    to_keys[near] += sequence.multiply(queries[heads].mT, to_scores.mT)
            sequence.add(to_key, to_keys.mul_(scale))
            sequence.add(to_value, to_values)
        return to_query.to(dtype), to_key.to(dtype), to_value.to(dtype), None, None, None


class _Sequence:
    """Computation of one sequence: its own queries over all its keys.

    A completion stored apart from its prompt has only queries after the prompt.
    """

    def __init__(self, span: Span, query: torch.Tensor, key: torch.Tensor) -> None:
        kv_heads, size = key.shape[1], query.shape[1] * query.shape[3]
        self.span = span
        self.one_by_one = span.length * size // kv_heads >= _LARGE and torch.backends.mkldnn.is_available()
        self.multiple = PRODUCT_ROWS if self.one_by_one else 1  # oneDNN compiles a product for each new shape
        self.heads = [slice(head, head + 1) for head in range(kv_heads)] if self.one_by_one else [slice(None)]
        self.rows = 128 if self.one_by_one else 64  # rows of a block, whose scores should fit into a core's cache

    def multiply(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Return left @ right.T, [heads, M, N], from [heads, M, K] and [heads, N, K]."""
        return product(left[0], right[0])[None] if self.one_by_one else torch.bmm(left, right.mT)

    def seen(self, row: torch.Tensor) -> torch.Tensor:
        """Return the sequence's part [kv_heads, L, D] of [1, kv_heads, T, D], padded with zeros to a multiple."""
        span = self.span
        if span.is_whole:
            part = row[0, :, span.begin : span.stop]
        else:
            part = torch.cat([row[0, :, span.begin : span.end], row[0, :, span.start : span.stop]], 1)
        return pad(part, (0, 0, 0, -span.length % self.multiple)).contiguous()

    def add(self, row: torch.Tensor, part: torch.Tensor) -> None:
        """Add [kv_heads, D, L] to the places that `seen` reads from."""
        span, part = self.span, part.mT
        row[0, :, span.begin : span.end] += part[:, : span.prompt]
        row[0, :, span.start : span.stop] += part[:, span.prompt : span.length]

    def blocks(self, window: int | None) -> Iterator["_Block"]:
        first = 0 if self.span.is_whole else self.span.prompt
        start = self.span.stop - (self.span.length - first)
        for done in range(0, self.span.length - first, self.rows):
            count = min(self.rows, self.span.length - first - done)
            at = first + done
            begin = max(0, at + 1 - window) // self.multiple * self.multiple if window else 0
            end = _up(at + count, self.multiple)
            yield _Block(start + done, count, _up(count, self.multiple), at, slice(begin, end), window)


@dataclass(frozen=True)
class _Block:
    """A block of `count` queries, padded to `rows`; it begins at `start` in the row and at `first` in its sequence."""

    start: int
    count: int
    rows: int
    first: int
    keys: slice  # keys that at least one of the queries sees
    window: int | None

    def part(self, row: torch.Tensor, kv_heads: int) -> torch.Tensor:
        """Return the view [kv_heads, shared, count, D] of [1, heads, T, D]; `shared`: query heads per key head."""
        return row[0, :, self.start : self.start + self.count].unflatten(0, (kv_heads, -1))

    def take(self, row: torch.Tensor, kv_heads: int) -> torch.Tensor:
        """Return the block's part [kv_heads, shared x rows, D] of [1, heads, T, D], padded."""
        part = self.part(row, kv_heads)
        return pad(part, (0, 0, 0, self.rows - self.count)).flatten(1, 2).contiguous()

    def put(self, part: torch.Tensor, result: torch.Tensor) -> None:
        """Write `result`, in the layout of `take`, into `part`, a view by `part()`."""
        part.copy_(result.unflatten(1, (-1, self.rows))[:, :, : self.count])

    def probabilities(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the probabilities [heads, shared x rows, keys] of scores of the same shape, which are overwritten."""
        real = scores.unflatten(1, (-1, self.rows))[:, :, : self.count]
        ahead = self.first - self.keys.start
        real[..., ahead:].masked_fill_(_triangle(self.count, real.shape[-1] - ahead), -torch.inf)
        if self.window and ahead + self.count > self.window:
            passed = torch.ones(self.count, real.shape[-1], dtype=torch.bool).tril_(ahead - self.window)
            real.masked_fill_(passed, -torch.inf)
        return torch.softmax(scores, -1)


def _triangle(rows: int, columns: int) -> torch.Tensor:
    return torch.ones(rows, columns, dtype=torch.bool).triu_(1)


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
