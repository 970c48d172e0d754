"""Faster float32 training on CPU. Code outside this folder imports only the names below, from here.

A reader of the GPU path need not open this folder: on a GPU, and in other dtypes, each function does what PyTorch does.
On any device:
    adopt(lm): replace a transformers model's linear layers, embeddings, norms and MLPs, in place.
    Linear: the class that `adopt` gives linear layers; `OutputLayer` extends it.
    product(left, right, bias), outer_product(left, right): matrix products without a gradient of their own.
    reordered(lm): a context with faster products of a few rows, for decoding; weights must not change in it.
On CPU alone:
    PRODUCT_ROWS: rows of a matrix product are padded to a multiple of this number.
    suits_blocks(query), blockwise_attention(query, ...): attention over packed sequences, and a check that it is fastest.
    prepare_process(dtype), return_freed_memory(): settings for freed memory and compiled products.
    free_bytes(): memory that the system still has.
    micro_batches_at_once(...), Queues, Copies: two micro-batches at once in one process, on two copies of the models.
"""

from psychocounsel.model.cpu.blockwise import blockwise_attention, suits_blocks
from psychocounsel.model.cpu.lanes import Copies, Queues, micro_batches_at_once
from psychocounsel.model.cpu.layers import adopt
from psychocounsel.model.cpu.linear import PRODUCT_ROWS, Linear, outer_product, product, reordered
from psychocounsel.model.cpu.process import free_bytes, prepare_process, return_freed_memory

__all__ = [
    "PRODUCT_ROWS",
    "Copies",
    "Linear",
    "Queues",
    "adopt",
    "blockwise_attention",
    "free_bytes",
    "micro_batches_at_once",
    "outer_product",
    "prepare_process",
    "product",
    "reordered",
    "return_freed_memory",
    "suits_blocks",
]
