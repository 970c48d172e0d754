"""In-place gradients of layers of vocabulary size equal autograd's, without temporary matrices of that size."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from psychocounsel.data.batch import build_batch
from psychocounsel.model.cpu.embedding import Embedding
from psychocounsel.model.gradients import add_in_place
from psychocounsel.model.policy import Policy
from tests.support.harness import random_groups, small_lm

_VOCABULARY = 1 << 17  # several blocks of logits


def policy(tied: bool) -> Policy:
    lm = small_lm(vocab_size=_VOCABULARY, tie_word_embeddings=tied, pad_token_id=7)
    return Policy(lm, "test")


def train_on(model: Policy, micro_batches: int) -> None:
    for seed in range(micro_batches):
        groups = random_groups(
            4, seed=seed, vocabulary=16
        )  # few tokens, so that most occur in several rows, and token 7, too
        model(build_batch([groups], 1.0, 8)).sum().backward()


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_equal_those_of_autograd(tied: bool) -> None:
    plain, own = policy(tied), policy(tied)
    assert type(own.lm.get_input_embeddings()) is Embedding
    assert own.lm.get_input_embeddings().padding_idx == 7
    add_in_place(own)
    for model in (plain, own):
        train_on(model, 3)
    expected = dict(plain.named_parameters())
    for name, parameter in own.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-5, atol=1e-6, msg=name)


class _Sizes(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {item.untyped_storage().data_ptr() for item in args if isinstance(item, torch.Tensor)}
        for item in result if isinstance(result, list | tuple) else [result]:
            if isinstance(item, torch.Tensor) and item.untyped_storage().data_ptr() not in given:
                self.largest = max(self.largest, item.numel())
        return result


def test_backward_makes_nothing_of_the_size_of_the_vocabulary() -> None:
    sizes = {}
    for adds in (False, True):
        model = policy(tied=True)
        if adds:
            add_in_place(model)
        train_on(model, 1)  # leaves the gradients in place
        batch = build_batch([random_groups(1, seed=1)], 1.0, 8)
        loss = model(batch).sum()
        with _Sizes() as seen:
            loss.backward()
        sizes[adds] = seen.largest
    assert sizes[False] >= _VOCABULARY * 48
    assert sizes[True] < _VOCABULARY * 48
