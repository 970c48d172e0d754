"""Every algorithm gives the same loss and gradients, however its groups are packed and attended to."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch

from psychocounsel.algo.base import Algorithm
from psychocounsel.algo.dpo import DPO
from psychocounsel.algo.kto import KTO
from psychocounsel.algo.orpo import ORPO
from psychocounsel.algo.reward import Reward
from psychocounsel.algo.sft import SFT
from psychocounsel.algo.simpo import SimPO
from psychocounsel.data.group import Group
from psychocounsel.engine.step import metrics_of
from psychocounsel.model.cpu import blockwise
from tests.support.harness import make_stepper, random_groups, small_lm

pytestmark = pytest.mark.usefixtures("in_process_training")

ALGORITHMS: dict[str, Callable[[], Algorithm]] = {
    "sft": SFT,
    "reward": lambda: Reward(margin=0.5, centring=0.01),
    "dpo": lambda: DPO(sft_weight=0.2),
    "ipo": lambda: DPO(loss_type="ipo"),
    "simpo": lambda: SimPO(sft_weight=0.3),
    "orpo": ORPO,
    "kto": KTO,
}
# name: attention and micro_batch_tokens; a budget of 1 runs every group alone
PATHS = {
    "padded rows": ("dense", 160),
    "one padded batch": ("dense", 4096),
    "packed": ("varlen", 160),
    "one packed row": ("varlen", 4096),
    "one by one, varlen": ("varlen", 1),
    "padded rows in two lanes": ("dense", 160),
    "packed in two lanes": ("varlen", 160),
    "one packed row in two lanes": ("varlen", 40_960),
    "one by one in two lanes": ("varlen", 1),
}
TWO_LANES = {path for path in PATHS if "two lanes" in path}


def groups_for(name: str) -> list[Group]:
    groups = random_groups(9, 1 if name == "sft" else 2, longest=40)
    for number, group in enumerate(groups):
        for index, completion in enumerate(group.completions):
            completion.reward, completion.label = 4.0 - index - 0.1 * number, index == 0
    return groups


def step(name: str, attention: str, budget: int, at_once: int = 1) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    algorithm = ALGORITHMS[name]()
    if isinstance(algorithm, KTO):
        algorithm._kl = 0.3
    lm = small_lm(rewards=name == "reward", pad_token_id=0)
    stepper = make_stepper(
        lm, algorithm, budget, torch.float32, f"model.attention={attention}", "zero=0", at_once=at_once
    )
    stepper.main.train(True)
    tally, _ = stepper.accumulate(groups_for(name), train=True)
    stepper.main.copies.move_gradients()
    return metrics_of(tally), {key: value.grad for key, value in lm.named_parameters() if value.grad is not None}


@cache
def one_by_one(name: str) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    return step(name, "dense", 1)


@pytest.mark.parametrize(
    ("name", "smallest_head"),
    [
        pytest.param(name, size, id=f"{name}-{words}", marks=() if name in quick else pytest.mark.slow)
        for size, words, quick in (
            (1, "varlen by blocks", {*ALGORITHMS} - {"ipo"}),
            (10_000, "varlen by PyTorch's kernel", ("dpo", "reward")),  # a kernel knows no loss
        )
        for name in ALGORITHMS
    ],
)
def test_every_path_gives_what_groups_one_by_one_give(
    name: str, smallest_head: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise, "_SMALLEST_HEAD", smallest_head)
    expected, gradients = one_by_one(name)
    assert math.isfinite(expected["loss"]) and gradients
    for path, (attention, budget) in PATHS.items():
        if attention == "dense" and smallest_head > 1:
            continue  # the CPU has neither kernel
        metrics, others = step(name, attention, budget, at_once=2 if path in TWO_LANES else 1)
        assert metrics == pytest.approx(expected, rel=2e-5, abs=1e-6), path
        assert others.keys() == gradients.keys()
        for key, gradient in gradients.items():
            assert (others[key] - gradient).norm() <= 1e-4 * gradient.norm().clamp(min=1e-6), (path, key)


@pytest.mark.parametrize("name", ["dpo", "simpo", "reward"])
def test_a_shared_prompt_changes_nothing(name: str) -> None:
    """Replies that each have their own copy of the prompt get the same scores and log-probabilities."""
    algorithm, groups = ALGORITHMS[name](), groups_for(name)
    stepper = make_stepper(small_lm(rewards=name == "reward", pad_token_id=0), algorithm)
    alone = [replace(group, completions=[reply]) for group in groups for reply in group.completions]
    with torch.no_grad():
        module = stepper.main.module
        shared, apart = (
            [value for _, batch in stepper.micro_batches(some) for value in module(batch).tolist()]
            for some in (groups, alone)
        )
    assert sorted(apart) == pytest.approx(sorted(shared), abs=2e-5)
