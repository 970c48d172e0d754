"""Log-probabilities computed in blocks equal the plain formula, with gradients, in memory independent of the vocabulary."""

import pytest
import torch
from torch import nn

from psychocounsel.errors import UserError
from psychocounsel.model import output_layer
from psychocounsel.model.output_layer import OutputLayer
from psychocounsel.model.packed import Policy
from tests.support.harness import small_lm

VOCABULARY, HIDDEN, TOKENS = 50, 12, 33


def plain(
    layer: nn.Linear, hidden: torch.Tensor, targets: torch.Tensor, temperature: float, cap: float | None
) -> torch.Tensor:
    logits = hidden @ layer.weight.T + (0 if layer.bias is None else layer.bias)
    if cap:
        logits = cap * torch.tanh(logits / cap)
    return (logits / temperature).log_softmax(-1)[torch.arange(len(targets)), targets]


@pytest.mark.parametrize("piece", [1, 7, 1000])
@pytest.mark.parametrize("kept", [0, 20, 1000])  # number of kept columns of the vocabulary
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("temperature", "cap"), [(1.0, None), (0.7, None), (1.0, 2.0), (1.3, 2.0)])
def test_pieces_equal_the_formula(
    piece: int, kept: int, bias: bool, temperature: float, cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(output_layer._PIECE_BYTES, "cpu", 4 * TOKENS * piece)
    monkeypatch.setitem(output_layer._KEPT_BYTES, "cpu", 4 * TOKENS * kept)
    torch.manual_seed(0)
    layer = nn.Linear(HIDDEN, VOCABULARY, bias=bias).double()
    nn.init.normal_(layer.weight)
    hidden = torch.randn(TOKENS, HIDDEN, dtype=torch.double, requires_grad=True)
    targets, weights = torch.randint(0, VOCABULARY, (TOKENS,)), torch.randn(TOKENS)
    inputs = [hidden, *layer.parameters()]
    expected = plain(layer, hidden, targets, temperature, cap)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), inputs)

    got = OutputLayer.of(layer)(hidden, targets, temperature, cap)
    torch.testing.assert_close(got, expected.float(), rtol=0, atol=1e-5)
    gradients = torch.autograd.grad((got * weights).sum(), inputs)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("piece", [7, 1000])
@pytest.mark.parametrize("kept", [0, 20, 1000])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("temperature", "cap"), [(1.0, None), (0.7, None), (1.3, 2.0)])
@pytest.mark.parametrize("both", [True, False])
def test_entropy_and_its_gradient_equal_the_formula(
    piece: int,
    kept: int,
    bias: bool,
    temperature: float,
    cap: float | None,
    both: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(output_layer._PIECE_BYTES, "cpu", 4 * TOKENS * piece)
    monkeypatch.setitem(output_layer._KEPT_BYTES, "cpu", 4 * TOKENS * kept)
    torch.manual_seed(0)
    layer = nn.Linear(HIDDEN, VOCABULARY, bias=bias).double()
    nn.init.normal_(layer.weight)
    hidden = torch.randn(TOKENS, HIDDEN, dtype=torch.double, requires_grad=True)
    targets, weights, others = torch.randint(0, VOCABULARY, (TOKENS,)), torch.randn(TOKENS), torch.randn(TOKENS)
    inputs = [hidden, *layer.parameters()]
    every = [plain(layer, hidden, torch.full_like(targets, token), temperature, cap) for token in range(VOCABULARY)]
    logs = torch.stack(every, 1)
    expected, spread = logs[torch.arange(TOKENS), targets], -(logs.exp() * logs).sum(1)
    loss = (spread * others).sum() + (expected * weights).sum() * both
    expected_gradients = torch.autograd.grad(loss, inputs)

    got, entropy = OutputLayer.of(layer)(hidden, targets, temperature, cap, entropy=True)
    torch.testing.assert_close(entropy, spread.float(), rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(got, expected.float(), rtol=0, atol=1e-5)
    mine = (entropy * others).sum() + ((got * weights).sum() if both else 0)
    for gradient, other in zip(torch.autograd.grad(mine, inputs), expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=2e-5)


def test_asking_for_the_entropy_changes_nothing_else() -> None:
    torch.manual_seed(0)
    layer, hidden = OutputLayer.of(nn.Linear(HIDDEN, VOCABULARY)), torch.randn(TOKENS, HIDDEN, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (TOKENS,))
    alone, (beside, _) = layer(hidden, targets), layer(hidden, targets, entropy=True)
    gradients = [torch.autograd.grad(each.sum(), [hidden, layer.weight]) for each in (alone, beside)]
    assert torch.equal(alone, beside)
    assert all(map(torch.equal, *gradients))


def test_frozen_weights_cost_no_gradient() -> None:
    layer = OutputLayer.of(nn.Linear(HIDDEN, VOCABULARY).requires_grad_(False))
    hidden = torch.randn(TOKENS, HIDDEN, requires_grad=True)
    layer(hidden, torch.randint(0, VOCABULARY, (TOKENS,))).sum().backward()
    assert hidden.grad is not None
    assert layer.weight.grad is None


def test_without_targets_it_is_the_layer_it_was() -> None:
    layer = nn.Linear(HIDDEN, VOCABULARY)
    hidden = torch.randn(2, 3, HIDDEN)
    expected = layer(hidden)
    torch.testing.assert_close(OutputLayer.of(layer)(hidden), expected)


def test_bfloat16_is_multiplied_and_summed_in_float32() -> None:
    torch.manual_seed(0)
    layer = OutputLayer.of(nn.Linear(HIDDEN, VOCABULARY, dtype=torch.bfloat16))
    hidden, targets = torch.randn(TOKENS, HIDDEN).bfloat16().requires_grad_(), torch.randint(0, VOCABULARY, (TOKENS,))
    wide = nn.Linear(HIDDEN, VOCABULARY)
    wide.load_state_dict(layer.state_dict())
    logits = wide(hidden.float())
    exact = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    rounded = nn.functional.linear(hidden, layer.weight, layer.bias).float().log_softmax(-1)
    got = layer(hidden, targets)
    assert layer(hidden).dtype == got.dtype == torch.float32
    torch.testing.assert_close(got, exact, rtol=0, atol=1e-5)
    torch.testing.assert_close(layer(hidden), logits, rtol=0, atol=1e-5)
    assert (rounded.gather(1, targets[:, None]).squeeze(1) - exact).abs().max() > 1e-3, "a head in bfloat16 is worse"
    (wanted,) = torch.autograd.grad(exact.sum(), wide.weight)
    (slope,) = torch.autograd.grad(got.sum(), layer.weight)
    assert (slope.float() - wanted).norm() < 0.02 * wanted.norm()


def test_a_model_with_another_output_layer_is_refused() -> None:
    lm = small_lm()
    lm.set_output_embeddings(nn.Sequential(lm.get_output_embeddings()))
    with pytest.raises(UserError, match=r"^model.path: the model's output layer is a Sequential, but "):
        Policy(lm, "test")
