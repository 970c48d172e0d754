"""Soft labels in the loss: against TRL, label smoothing and numpy formulas; p = 1 changes no bit."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from psychocounsel.algo.base import Algorithm
from psychocounsel.algo.dpo import DPO
from psychocounsel.algo.reward import Reward
from psychocounsel.data.group import Group
from psychocounsel.engine.step import metrics_of
from tests.support.harness import make_stepper, random_groups, small_lm
from tests.support.parity import (
    OURS,
    THEIRS,
    assert_same_training,
    chat,
    groups_of,
    model,
    reference_of,
    rows,
    train_ours,
)
from tests.support.trl_oracle import train_dpo

pytestmark = pytest.mark.usefixtures("in_process_training")

BETA = 0.5
ALGORITHMS: dict[str, Callable[[], Algorithm]] = {
    "sigmoid": lambda: DPO(beta=BETA, sft_weight=0.2),
    "normalised": lambda: DPO(beta=BETA, length_normalised=True),
    "ipo": lambda: DPO(beta=BETA, loss_type="ipo"),
    "reward": lambda: Reward(centring=0.01),
}
every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)


def pairs(probabilities: list[float | None]) -> list[Group]:
    """Return pairs with random reference log-probabilities."""
    rng = np.random.default_rng(5)
    groups = random_groups(len(probabilities), longest=30)
    for completion in (completion for group in groups for completion in group.completions):
        completion.ref_logprobs = rng.normal(-5, 1, len(completion.ids)).astype(np.float32)
    return [replace(group, probability=value) for group, value in zip(groups, probabilities, strict=True)]


def step(algorithm: Algorithm, groups: list[Group], budget: int = 4096) -> tuple[dict[str, float], Any]:
    lm = small_lm(rewards=isinstance(algorithm, Reward), pad_token_id=0)
    tally, _ = make_stepper(lm, algorithm, budget, torch.float32).accumulate(groups, train=True)
    return metrics_of(tally), {key: value.grad for key, value in lm.named_parameters() if value.grad is not None}


@every_algorithm
def test_certain_labels_give_the_loss_and_gradient_bit_for_bit(name: str) -> None:
    plain, certain = (step(ALGORITHMS[name](), pairs([value] * 5), budget=120) for value in (None, 1.0))
    assert plain[0] == certain[0]
    assert plain[1].keys() == certain[1].keys() and plain[1]
    assert all(torch.equal(plain[1][key], certain[1][key]) for key in plain[1])


@every_algorithm
def test_a_loss_is_the_mean_of_both_orders_by_their_probability(name: str) -> None:
    """IPO differs from this mean by the constant p (1-p) / beta^2, the variance of its target.

    Terms that do not depend on the order count once.
    """

    def loss(probability: float, turned: bool) -> float:
        (group,) = pairs([probability])
        group = replace(group, completions=group.completions[::-1]) if turned else group
        algorithm = ALGORITHMS[name]()
        if isinstance(algorithm, DPO):
            algorithm.sft_weight = 0.0
        return step(algorithm, [group])[0]["loss"]

    one, other = loss(1.0, turned=False), loss(1.0, turned=True)
    for p in (0.0, 0.3, 0.85):
        expected = p * one + (1 - p) * other - (p * (1 - p) / BETA**2 if name == "ipo" else 0.0)
        assert loss(p, turned=False) == pytest.approx(expected, rel=1e-5)
        assert loss(1 - p, turned=True) == pytest.approx(expected, rel=1e-5)


def test_formulas_of_each_pair() -> None:
    margins, p = np.array([-3.0, -0.2, 0.0, 0.7, 40.0]), np.array([0.1, 0.9, 0.5, 0.6, 1.0])
    given = torch.tensor(margins), torch.tensor(p)

    def softplus(x: np.ndarray) -> np.ndarray:
        return np.logaddexp(0, x)

    expected = p * softplus(-BETA * margins) + (1 - p) * softplus(BETA * margins)
    np.testing.assert_allclose(DPO(beta=BETA).pair_losses(*given).numpy(), expected)
    found = DPO(beta=BETA, loss_type="ipo").pair_losses(*given).numpy()
    np.testing.assert_allclose(found, (margins - (2 * p - 1) / (2 * BETA)) ** 2)


def test_sigmoid_is_least_where_the_model_agrees_with_the_label() -> None:
    """The cross-entropy is minimal at beta h = logit(p), and IPO at h = (2p - 1) / (2 beta)."""
    margins = torch.linspace(-6, 6, 12001, dtype=torch.float64)
    for p in (0.25, 0.5, 0.8):
        soft = torch.full_like(margins, p)
        best = {
            kind: margins[DPO(beta=BETA, loss_type=kind).pair_losses(margins, soft).argmin()].item()
            for kind in ("sigmoid", "ipo")
        }
        assert best["sigmoid"] == pytest.approx(math.log(p / (1 - p)) / BETA, abs=2e-3)
        assert best["ipo"] == pytest.approx((2 * p - 1) / (2 * BETA), abs=2e-3)


def test_any_split_into_micro_batches_gives_the_same() -> None:
    """Pairs without a label count as certain, alone or with others in their micro-batch."""
    mixed = pairs([0.6, None, 0.9, 1.0, None, 0.2])
    whole, gradients = step(DPO(beta=BETA), mixed)
    for budget in (1, 120):
        parts, others = step(DPO(beta=BETA), mixed, budget)
        assert parts == pytest.approx(whole, rel=1e-5)
        for key, gradient in gradients.items():
            assert (others[key] - gradient).norm() <= 1e-4 * gradient.norm().clamp(min=1e-6), key


@pytest.mark.parametrize("e", [0.15, 0.4])
def test_equal_labels_are_label_smoothing(e: float) -> None:
    smoothed, gradients = step(DPO(beta=BETA, label_smoothing=e), pairs([None] * 5))
    soft, others = step(DPO(beta=BETA), pairs([1 - e] * 5))
    assert soft == pytest.approx(smoothed, rel=1e-6)  # rewards too, because metrics ignore soft labels
    for key, gradient in gradients.items():
        torch.testing.assert_close(others[key], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_soft_labels_train_as_the_robust_loss_of_trl_does(tmp_path: Path) -> None:
    """TRL has no soft labels, but its robust loss is the same formula at p = (1-e) / (1-2e), a value above 1."""
    groups = DPO().collect(groups_of("pairs"), reference_of(model(seed=1)))
    settings = {"loss_type": ["robust"], "label_smoothing": 0.2}
    theirs = train_dpo(model(), model(seed=1), chat()[0], rows(), tmp_path, beta=BETA, **THEIRS, **settings)
    soft = [replace(group, probability=0.8 / 0.6) for group in groups]
    assert_same_training(train_ours(model(), DPO(beta=BETA, **OURS), soft), theirs)
