"""Linear layers with oneDNN products give PyTorch's results and gradients, and use PyTorch where they do not apply."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from psychocounsel.data.batch import build_batch
from psychocounsel.model.cpu.linear import Linear, product, reordered
from psychocounsel.model.packed import Policy
from tests.support.harness import random_groups, small_lm


@pytest.mark.parametrize("shape", [(5,), (2, 3), (1,), (0,)])
@pytest.mark.parametrize("widths", [(12, 7), (7, 12)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_and_gradients_are_those_of_the_layer_it_was(
    shape: tuple[int, ...], widths: tuple[int, int], bias: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(*widths, bias=bias, dtype=dtype)
    ours = nn.Sequential(copy.deepcopy(plain))
    Linear.adopt(ours)
    assert type(ours[0]) is Linear
    values = torch.randn(*shape, widths[0])
    results = []
    for layer in (plain, ours):
        input = values.to(dtype, copy=True).requires_grad_()
        output = layer(input)
        output.backward(torch.ones_like(output))
        results.append([output, input.grad, *(parameter.grad for parameter in layer.parameters())])
    for wanted, got in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted)


def test_frozen_weights_and_constant_inputs_get_no_gradient() -> None:
    layer = nn.Sequential(nn.Linear(4, 3).requires_grad_(False))
    Linear.adopt(layer)
    input = torch.randn(2, 4, requires_grad=True)
    layer(input).sum().backward()
    torch.testing.assert_close(input.grad, layer[0].weight.sum(0).expand(2, 4))
    assert layer[0].weight.grad is None
    assert not layer(input.detach()).requires_grad


def test_subclasses_of_linear_layers_stay_what_they_are() -> None:
    class Other(nn.Linear):
        pass

    layer = nn.Sequential(Other(4, 3))
    Linear.adopt(layer)
    assert type(layer[0]) is Other


def test_weights_of_any_strides() -> None:
    left, right = torch.randn(5, 4), torch.randn(4, 6)
    torch.testing.assert_close(product(left, right.t()), left @ right)
    torch.testing.assert_close(product(left, right[:, 1:4].t()), left @ right[:, 1:4])


def test_micro_batches_of_many_lengths_have_products_of_few_shapes() -> None:
    """Shapes are few, because oneDNN compiles and keeps a product for each."""
    shapes = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.ops.mkldnn._linear_pointwise.default:
                shapes.add((args[0].shape, args[1].shape))
            return function(*args, **(kwargs or {}))

    policy = Policy(small_lm(), "m")
    groups = random_groups(40, longest=60)
    lengths = {group.tokens for group in groups}
    with Watch():
        for group in groups:
            policy(build_batch([[group]], multiple=policy.attention.multiple)).sum().backward()
    assert len(lengths) > 25
    assert 20 < len(shapes) < 4 * 30, "about 30 for each of up to 4 widths"


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("bias", [False, True])
def test_reordered_weights_give_the_same_until_they_may_change_again(rows: int, bias: bool) -> None:
    layer = Linear(12, 7, bias=bias)
    x = torch.randn(rows, 12)
    with torch.no_grad(), reordered(layer):
        torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
    with torch.no_grad():
        layer.weight.zero_()
    torch.testing.assert_close(layer(x), (layer.bias if bias else torch.zeros(7)).expand(rows, 7))
    layer(x).sum().backward()
    assert layer.weight.grad is not None
