"""Operations counted by formula equal PyTorch's count, and counted pairs equal those of the mask."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from psychocounsel.data.batch import build_batch
from psychocounsel.engine.telemetry.speed import TrainingFlops
from psychocounsel.engine.telemetry.speed import _pairs as pairs_of
from psychocounsel.model.attention import sliding_window
from psychocounsel.model.packed import Policy
from tests.support.harness import random_groups, small_lm


def linear_flops(left: torch.Size, right: torch.Size, *_: object, out_shape: torch.Size) -> int:
    """Return the operations of oneDNN's product, which PyTorch's counter does not know."""
    return 2 * math.prod(left) * right[0]


@pytest.mark.parametrize("frozen", [False, True])
def test_matrix_products_are_those_that_pytorch_counts(frozen: bool) -> None:
    lm = small_lm()
    groups = random_groups(4, 3, longest=40)
    for layer in lm.model.layers:
        layer.mlp.requires_grad_(not frozen)
    known = {torch.ops.mkldnn._linear_pointwise: linear_flops}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        Policy(lm, "llama").hidden(build_batch([groups])).sum().backward()
    counted = sum(
        count for name, count in counter.get_flop_counts()["Global"].items() if "scaled_dot_product" not in str(name)
    )
    flops = TrainingFlops(lm)
    assert flops.per_token * sum(group.tokens for group in groups) == counted
    assert flops.per_trained_token == 6 * lm.config.hidden_size * lm.config.vocab_size


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_pairs_are_those_of_the_mask(kind: str) -> None:
    policy = Policy(small_lm(kind), kind, attention="dense")
    for group in random_groups(5, 3, longest=14):
        mask = policy.attention.inputs(build_batch([[group]]), torch.float32)["attention_mask"]
        assert pairs_of(group, sliding_window(policy.text_config)) == int(mask.sum())


def test_attention_counts_scores_and_sums_forward_and_twice_that_backward() -> None:
    lm = small_lm()
    flops = TrainingFlops(lm)
    flops.per_token = flops.per_trained_token = 0
    (group,) = random_groups(1, 2)
    per_layer = 3 * (2 + 2) * lm.config.num_attention_heads * lm.config.head_dim * pairs_of(group, None)
    assert flops.of([group]) == lm.config.num_hidden_layers * per_layer
