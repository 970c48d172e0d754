"""Sizes of models, data and runs. Imports no torch, so that the orchestrating process stays small."""

from dataclasses import dataclass
from typing import Any

Geometry = dict[str, Any]


def llama(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, vocabulary: int) -> Geometry:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    }


@dataclass(frozen=True)
class Sizes:
    """Sizes of a benchmark. `words` truncates prompts and replies (None: no limit). `steps` includes the warm-up step."""

    models: dict[str, Geometry]
    pairs: int = 32
    prompts: int = 8  # per round of online training
    steps: int = 2
    tokenizer: int = 16_000
    words: int | None = None
    micro_batch_tokens: int = 1024  # ours
    trl_batches: tuple[int, ...] = (1, 2, 4, 8)
    mfu_pairs: int = 16
    mfu_micro_batch_tokens: int = 2048  # larger, because this case does not measure memory
    mfu_runs: int = 3
    scaling_pairs: tuple[int, int] = (100, 10_000)
    scaling_words: int = 30
    sweep_pairs: int = 96
    sweep_betas: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
    sweep_seeds: tuple[int, ...] = (1, 2, 3)
    single_runs: int = 3  # measured single runs; the sweep's other combinations are assumed to take their median
    peak_sizes: tuple[int, ...] = (2048, 3072, 4096)


FULL = Sizes(
    {
        "small": llama(384, 8, 6, 2, 1024, 32_768),
        "wide": llama(384, 8, 6, 2, 1024, 131_072),
        "large": llama(768, 12, 12, 4, 2048, 32_768),
        "toy": llama(128, 2, 4, 2, 256, 16_384),
    }
)

SMOKE = Sizes(
    {
        "small": llama(64, 2, 4, 2, 128, 2048),
        "wide": llama(64, 2, 4, 2, 128, 8192),
        "large": llama(96, 2, 4, 2, 192, 2048),
        "toy": llama(32, 1, 2, 1, 64, 2048),
    },
    pairs=8,
    tokenizer=1000,
    words=40,
    trl_batches=(4,),
    mfu_pairs=4,
    mfu_runs=1,
    scaling_pairs=(64, 320),
    scaling_words=10,
    sweep_pairs=8,
    sweep_betas=(0.1, 0.2),
    sweep_seeds=(1,),
    single_runs=1,
    peak_sizes=(256, 512),
)

_1B = llama(2048, 16, 32, 8, 8192, 128_256)
_8B = llama(4096, 32, 32, 8, 14_336, 128_256) | {"tie_word_embeddings": False}
CUDA = {
    "1b": Sizes(
        {"small": _1B, "large": _1B},
        pairs=128,
        steps=4,
        micro_batch_tokens=16_384,
        mfu_pairs=128,
        mfu_micro_batch_tokens=16_384,
        mfu_runs=1,
        peak_sizes=(8192,),
    ),
    "8b": Sizes(
        {"small": _8B, "large": _8B},
        pairs=64,
        steps=3,
        micro_batch_tokens=8192,
        mfu_pairs=64,
        mfu_micro_batch_tokens=8192,
        mfu_runs=1,
        peak_sizes=(8192,),
    ),
}
