"""Tests of one optimizer step: the groups that count, and the two questions to an algorithm about each engine."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from psychocounsel.algo.base import Context
from psychocounsel.algo.dpo import DPO
from psychocounsel.data.group import Group
from psychocounsel.engine.collector import Collector
from psychocounsel.engine.loop_state import LoopState
from psychocounsel.engine.optimizer_step import OptimizerStep
from psychocounsel.engine.telemetry.speed import Speed
from psychocounsel.errors import UserError
from psychocounsel.settings.config import check, compose
from tests.support.harness import make_stepper, random_groups, small_lm, world

GROUPS = random_groups(6)


@dataclass
class Picky(DPO):
    gradients: bool = True
    moves: bool = True

    def batch_groups(self, groups: list[Group], ctx: Context) -> list[Group]:
        return groups[:2]

    def gets_gradients(self, engine: str, ctx: Context) -> bool:
        assert "rewards/margin" not in ctx.peaks
        return self.gradients

    def moves_weights(self, engine: str, ctx: Context) -> bool:
        assert "rewards/margin" in ctx.peaks, "the step's metrics are known before the question"
        return self.moves


class Feed:
    steps = 4

    def groups(self, step: int) -> list[Group]:
        return GROUPS

    def metrics(self, step: int) -> dict[str, float]:
        return {"rollout/reward": 1.0}


@pytest.mark.usefixtures("in_process_training")
@pytest.mark.parametrize(("gradients", "moves"), [(True, True), (True, False), (False, False)])
def test_a_step(gradients: bool, moves: bool) -> None:
    stepper = make_stepper(small_lm(), Picky(lr=1e-3, gradients=gradients, moves=moves))
    run: Any = SimpleNamespace(config=check(compose([])), is_main=True, attempt=3)
    feed: Any = Feed()
    state = LoopState()
    step = OptimizerStep(run, stepper, Collector(run, stepper, None), feed, Speed(stepper.main, world()))
    before = {name: value.clone() for name, value in stepper.main.module.state_dict().items()}
    step(state)
    after = stepper.main.module.state_dict()
    assert any(not torch.equal(value, after[name]) for name, value in before.items()) == moves
    assert state.line is not None
    assert (state.step, state.line["step"], state.line["attempt"], state.line["rollout/reward"]) == (1, 1, 3, 1.0)
    assert state.line.get("skipped_steps", 0) == state.skipped == (not moves)
    assert state.line.get("groups") == (None if gradients else 0)
    if gradients:
        assert state.line["tokens"] == sum(group.tokens for group in GROUPS[:2]), "only groups in the loss count"
        assert state.line["loss"] > 0 and state.line["grad_norm"] > 0 and state.peaks["loss"] == state.line["loss"]
    averages = [each["exp_avg"].abs().sum() for each in stepper.main.deepspeed.optimizer.state.values()]
    assert bool(averages and max(averages) > 0) == gradients, (
        "a gradient enters Adam's averages even at a learning rate of 0"
    )


@pytest.mark.usefixtures("in_process_training")
def test_logprobs_of_a_model_that_does_not_exist_are_refused() -> None:
    stepper = make_stepper(small_lm(), DPO(lr=1e-3))
    run: Any = SimpleNamespace(config=check(compose([])), is_main=True)
    with pytest.raises(UserError, match='DPO: ctx.logprobs\\(\'refrence\', ...\\): give "policy" or "reference"'):
        Collector(run, stepper, None).logprobs("refrence", GROUPS)
