"""Linear layers with oneDNN's product give PyTorch's own results and gradients, and stand aside where they do not apply."""

import copy

import pytest
import torch
from torch import nn

from psychocounsel.model.linear import Linear, product


@pytest.mark.parametrize("shape", [(5, 12), (2, 3, 12), (1, 12), (0, 12)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_and_gradients_are_those_of_the_layer_it_was(
    shape: tuple[int, ...], bias: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(12, 7, bias=bias, dtype=dtype)
    ours = nn.Sequential(copy.deepcopy(plain))
    Linear.adopt(ours)
    assert type(ours[0]) is Linear
    values = torch.randn(shape)
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


def test_autocast_still_computes_in_bfloat16() -> None:
    layer = nn.Sequential(nn.Linear(4, 3))
    Linear.adopt(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 4)).dtype == torch.bfloat16


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
