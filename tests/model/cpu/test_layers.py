"""Norms, MLPs and embeddings of this package give the results and gradients of transformers and autograd."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GemmaConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.models.gemma.modeling_gemma import GemmaMLP, GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralMLP, MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP, Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, Qwen3RMSNorm

from psychocounsel.data.batch import build_batch
from psychocounsel.model.cpu.layers import Embedding, GatedMLP, RMSNorm, adopt
from psychocounsel.model.gradients import add_in_place
from psychocounsel.model.packed import Policy
from tests.support.harness import random_groups, small_lm

# Norms and MLPs that keep less for backward give transformers' results and gradients, and do not touch other layers.

_SIZES = {"hidden_size": 12, "intermediate_size": 20, "num_attention_heads": 2}
_MLPS = {
    LlamaMLP: LlamaConfig(**_SIZES, mlp_bias=True),
    MistralMLP: MistralConfig(**_SIZES),
    Qwen2MLP: Qwen2Config(**_SIZES),
    Qwen3MLP: Qwen3Config(**_SIZES),
}


def _norm(kind: Any) -> nn.Sequential:
    torch.manual_seed(1)
    norm = nn.Sequential(kind(12, eps=1e-5))
    nn.init.normal_(norm[0].weight)
    return norm


def _mlp(kind: Any, **more: Any) -> nn.Sequential:
    torch.manual_seed(1)
    config = copy.deepcopy(_MLPS[kind])
    config.update(more)
    return nn.Sequential(kind(config))


def _results(layer: nn.Module, input: torch.Tensor) -> list[torch.Tensor]:
    """Return the output, the input's gradient and the gradients of the weights."""
    input = input.clone().requires_grad_()
    output = layer(input)
    output.float().square().sum().backward()
    grads = [parameter.grad for parameter in layer.parameters()]
    return [tensor for tensor in (output, input.grad, *grads) if tensor is not None]


def _assert_same(layer: nn.Module, kind: type, dtype: torch.dtype = torch.float32) -> None:
    torch.manual_seed(0)
    plain, ours = layer.to(dtype), copy.deepcopy(layer)
    adopt(ours)
    assert type(ours[0]) is kind
    for shape in ((2, 5, 12), (12,), (1, 1, 12)):
        plain.zero_grad()
        ours.zero_grad()
        input = torch.randn(shape, dtype=dtype)
        for wanted, got in zip(_results(plain, input), _results(ours, input), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6 if dtype == torch.float32 else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm])
def test_norms_are_those_of_transformers(kind: Any, dtype: torch.dtype) -> None:
    """In bfloat16 the result is equal to the last bit, because bfloat16 is not computed differently here."""
    _assert_same(_norm(kind), RMSNorm, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", list(_MLPS))
def test_gated_mlps_are_those_of_transformers(kind: Any, dtype: torch.dtype) -> None:
    _assert_same(_mlp(kind), GatedMLP, dtype)


def test_a_norm_of_nothing_has_no_nan() -> None:
    _assert_same(_norm(LlamaRMSNorm), RMSNorm)
    norm = _norm(LlamaRMSNorm)
    adopt(norm)
    assert all(tensor.isfinite().all() for tensor in _results(norm, torch.zeros(3, 12)))


def test_frozen_weights_get_no_gradient_and_pass_on_the_same_one() -> None:
    for layer in (_norm(LlamaRMSNorm), _mlp(LlamaMLP)):
        adopt(layer)
        input = torch.randn(4, 12)
        trained = _results(layer, input)[1]
        layer.zero_grad()
        layer.requires_grad_(False)
        _, grad = _results(layer, input)
        torch.testing.assert_close(grad, trained)
        assert all(parameter.grad is None for parameter in layer.parameters())


def test_bfloat16_computes_as_transformers_does() -> None:
    for plain in (_norm(LlamaRMSNorm).bfloat16(), _mlp(LlamaMLP).bfloat16()):
        ours = copy.deepcopy(plain)
        adopt(ours)
        input = torch.randn(4, 12, dtype=torch.bfloat16)
        torch.testing.assert_close(ours(input), plain(input), rtol=0, atol=0)


def test_others_stay_what_they_are() -> None:
    gemma = nn.Sequential(GemmaRMSNorm(12), GemmaMLP(GemmaConfig(**_SIZES)), _mlp(LlamaMLP, hidden_act="gelu")[0])
    adopt(gemma)
    assert [type(layer) for layer in gemma] == [GemmaRMSNorm, GemmaMLP, LlamaMLP]


def test_less_is_kept_for_backward() -> None:
    """An MLP keeps two of its four intermediate values, and a norm none of its two."""
    kept = {}
    for name, change in (("plain", lambda layer: None), ("ours", adopt)):
        layer = nn.Sequential(_norm(LlamaRMSNorm)[0], _mlp(LlamaMLP)[0])
        change(layer)
        own = {parameter.data_ptr() for parameter in layer.parameters()}
        storages: dict[int, int] = {}

        def keep(tensor: torch.Tensor, own: set[int] = own, storages: dict[int, int] = storages) -> torch.Tensor:
            if tensor.data_ptr() not in own:
                storages[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = layer(torch.randn(64, 12, requires_grad=True))
        kept[name] = sum(storages.values()) / (64 * 4)
        output.sum().backward()
    # Values per token: the norm's input and output (12 each), gate and up (20 each), and one scale.
    assert kept["ours"] == 2 * 12 + 2 * 20 + 1
    assert kept["plain"] >= kept["ours"] + 12 + 2 * 20


def test_layers_with_a_kernel_of_another_library_keep_it() -> None:
    """Such a kernel replaces the layer's own `forward`, and calls the MLP's last layer with one argument."""
    layers = nn.Sequential(LlamaMLP(_MLPS[LlamaMLP]), LlamaRMSNorm(12))
    for layer in layers:
        layer.forward = type(layer).forward.__get__(layer)
    rows = torch.randn(3, 12)
    expected = layers(rows)
    adopt(layers)
    assert [type(layer) for layer in layers] == [LlamaMLP, LlamaRMSNorm]
    torch.testing.assert_close(layers(rows), expected)


# In-place gradients of layers of vocabulary size equal autograd's, without temporary matrices of that size.

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
