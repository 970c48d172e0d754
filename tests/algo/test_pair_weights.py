"""Weights of pairs in the loss: each scales its pair's share, however a batch is split; weights of 1 change no bit."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from psychocounsel.algo.base import Algorithm, Needs, Outputs, Term
from psychocounsel.algo.dpo import DPO
from psychocounsel.algo.orpo import ORPO
from psychocounsel.algo.reward import Reward
from psychocounsel.algo.simpo import SimPO
from psychocounsel.data.batch import Batch
from psychocounsel.data.group import Group
from psychocounsel.distributed.world import World
from psychocounsel.engine.step import Stepper, metrics_of
from psychocounsel.engine.zero import Engine
from psychocounsel.model.packed import Policy
from tests.support.composed import check, compose
from tests.support.harness import make_stepper, random_groups, small_lm, world
from tests.support.ranks import in_ranks

pytestmark = pytest.mark.usefixtures("in_process_training")

ALGORITHMS: dict[str, Callable[[], Algorithm]] = {
    "reward": lambda: Reward(margin=0.5, centring=0.01),
    "dpo": lambda: DPO(sft_weight=0.2, label_smoothing=0.1),
    "ipo": lambda: DPO(loss_type="ipo"),
    "simpo": lambda: SimPO(sft_weight=0.3),
    "orpo": ORPO,
}
every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)
Found = tuple[dict[str, float], dict[str, torch.Tensor]]


def groups_of(weights: list[float]) -> list[Group]:
    groups = random_groups(len(weights), longest=30)
    for number, group in enumerate(groups):
        for index, completion in enumerate(group.completions):
            completion.reward = 4.0 - index - 0.1 * number
    return [replace(group, weight=weight) for group, weight in zip(groups, weights, strict=True)]


def step(algorithm: Algorithm, groups: list[Group], budget: int = 4096, at_once: int = 1) -> Found:
    lm = small_lm(rewards=isinstance(algorithm, Reward), pad_token_id=0)
    stepper = make_stepper(lm, algorithm, budget, torch.float32, at_once=at_once)
    tally, _ = stepper.accumulate(groups, train=True)
    stepper.main.copies.move_gradients()
    return metrics_of(tally), {key: value.grad for key, value in lm.named_parameters() if value.grad is not None}


def assert_close(found: Found, expected: Found) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[1].keys() == expected[1].keys() and expected[1]
    for key, gradient in expected[1].items():
        assert (found[1][key] - gradient).norm() <= 1e-4 * gradient.norm().clamp(min=1e-6), key


@every_algorithm
def test_loss_and_gradient_are_weighted_sums_over_pairs(name: str) -> None:
    """Each part is the same batch with a weight on a single pair, so all parts are divided by the same counts."""
    weights = [1.5, 0.05, 0.0, 7.3]
    parts = [step(ALGORITHMS[name](), groups_of([float(one == other) for other in range(4)])) for one in range(4)]
    metrics, gradients = step(ALGORITHMS[name](), groups_of(weights))
    losses = [part[0]["loss"] for part in parts]
    assert metrics["loss"] == pytest.approx(float(np.dot(weights, losses)), rel=1e-5)
    for key, gradient in gradients.items():
        expected = sum(weight * part[1][key] for weight, part in zip(weights, parts, strict=True))
        assert (gradient - expected).norm() <= 1e-4 * gradient.norm().clamp(min=1e-6), key


def test_a_pair_alone_in_its_batch_keeps_its_weight() -> None:
    light, plain = (step(SimPO(), groups_of([weight]))[1] for weight in (0.05, 1.0))
    for key, gradient in plain.items():
        torch.testing.assert_close(light[key], 0.05 * gradient)


@every_algorithm
@pytest.mark.parametrize(("budget", "at_once"), [(1, 1), (120, 1), (160, 2)])
def test_any_split_into_micro_batches_gives_the_same(name: str, budget: int, at_once: int) -> None:
    groups = groups_of([0.05, 7.3, 1.0, 0.4, 2.5, 0.0, 0.9])
    assert_close(step(ALGORITHMS[name](), groups, budget, at_once), step(ALGORITHMS[name](), groups))


def of_ranks(world: World, groups: list[Group]) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Run a weighted step of SimPO on this rank of several, and return the gradients that the optimizer sees."""
    lm, algorithm = small_lm(), SimPO(sft_weight=0.3, lr=1e-3, warmup=0.0, weight_decay=0.0)
    engine = Engine(Policy(lm, "test", attention="auto"), check(compose([])), algorithm, torch.float32, 1)
    tally, _ = Stepper(algorithm, {"policy": engine}, world, 120).accumulate(groups, train=True)
    engine.step(1e-3)
    return metrics_of(tally), {key: value.detach().numpy() for key, value in lm.state_dict().items()}


@pytest.mark.proof
def test_any_number_of_ranks_gives_the_same() -> None:
    groups = groups_of([0.05, 7.3, 1.0, 0.4, 2.5, 0.0, 0.9])
    one, weights = of_ranks(world(), groups)
    two, others = in_ranks(2, of_ranks, groups)
    assert two == pytest.approx(one, rel=1e-5)
    for key, value in weights.items():
        np.testing.assert_allclose(others[key], value, rtol=1e-4, atol=2e-5)


def test_the_loss_is_divided_by_the_number_of_pairs_and_metrics_are_plain() -> None:
    weights = [0.05, 7.3, 1.0, 0.4, 2.5]
    groups = groups_of(weights)
    alone = [step(Reward(), [replace(group, weight=1.0)])[0] for group in groups]
    found, _ = step(Reward(), groups)
    expected = sum(weight * line["loss"] for weight, line in zip(weights, alone, strict=True)) / len(groups)
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    for name in ("rewards/accuracy", "rewards/margin"):
        assert found[name] == pytest.approx(np.mean([line[name] for line in alone]), rel=1e-5)


@dataclass
class PlainSimPO(Algorithm):
    """SimPO with a loss that ignores weights."""

    needs = Needs(data="pairs")

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        assert outputs.logprobs is not None
        chosen, rejected = batch.pairs(2.5 * batch.completion_sums(outputs.logprobs) / batch.completion_lengths)
        losses = -torch.nn.functional.logsigmoid(chosen - rejected - 2.5 * 0.55)
        return {"loss_preference": Term(losses.sum(), "pairs")}


def test_without_weights_not_a_bit_changes() -> None:
    groups = groups_of([1.0] * 7)
    metrics, gradients = step(SimPO(), groups, 120)
    plain, others = step(PlainSimPO(), groups, 120)
    assert metrics["loss"] == plain["loss"]
    assert all(torch.equal(gradients[key], others[key]) for key in others)
