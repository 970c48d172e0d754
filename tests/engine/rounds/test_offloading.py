"""Offloaded training state: the moved and the remaining tensors, and a training that continues unchanged."""

from pathlib import Path

import pytest
import torch

from psychocounsel.algo.dpo import DPO
from psychocounsel.cluster.memory.gpu import resting_states
from psychocounsel.cluster.memory.host import idle_state, pinned
from psychocounsel.engine.rounds.offloading import Offloading, open_offloading
from psychocounsel.engine.step import Stepper
from psychocounsel.errors import CONTINUE_LATER
from psychocounsel.model.shape import Shape
from tests.algo.test_online_dpo import BASE
from tests.engine.test_resume import assert_bitwise_equal
from tests.support.composed import compose
from tests.support.harness import ROOT, cli, make_stepper, random_groups, small_lm

pytestmark = pytest.mark.usefixtures("in_process_training")

STAGES = [(0, torch.float32), (0, torch.bfloat16), (1, torch.bfloat16), (2, torch.bfloat16), (3, torch.bfloat16)]


def stepper_of(stage: int, dtype: torch.dtype) -> Stepper:
    return make_stepper(small_lm("llama", dtype=dtype), DPO(lr=1e-3), 4096, dtype, f"zero='{stage}'")


def train(stepper: Stepper, step: int) -> None:
    stepper.main.train(True)
    stepper.accumulate(random_groups(2, seed=step), train=True)
    stepper.main.step(1e-3)


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize(("stage", "dtype"), STAGES)
def test_training_goes_on_as_if_nothing_had_left(stage: int, dtype: torch.dtype, copied: bool) -> None:
    found = []
    for rests in (False, True):
        stepper = stepper_of(stage, dtype)
        offloading = Offloading(stepper, rests, copied)
        for step in range(3):
            train(stepper, step)
            with offloading:
                for _, value in stepper.main.whole_parameters():
                    assert value.isfinite().all(), (
                        "the weights remain, because replies are written with them or they are yet to be copied"
                    )
                offloading.leave_weights()
        found.append([value.clone() for _, value in stepper.main.whole_parameters()])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize(("stage", "dtype"), STAGES[1:])  # the estimate is of bfloat16
def test_optimizer_state_and_master_weights_leave(stage: int, dtype: torch.dtype) -> None:
    stepper = stepper_of(stage, dtype)
    train(stepper, 0)
    offloading = Offloading(stepper, True)
    weights = sum(value.numel() for _, value in stepper.main.whole_parameters())
    optimizer = stepper.main.deepspeed.optimizer
    moments = [state["exp_avg"] for state in getattr(optimizer, "optimizer", optimizer).state.values()]
    with offloading:
        assert not any(moment.untyped_storage().nbytes() for moment in moments)
        away = sum(len(waiting) for _, waiting in offloading._waiting)
        assert away >= resting_states(weights, stage, 1, False, False), "at least the amount in the estimate of memory"
        offloading.end()
        assert all(moment.untyped_storage().nbytes() for moment in moments), "the state is back for a checkpoint"
    assert not offloading._waiting


@pytest.mark.parametrize(("stage", "dtype"), STAGES[1:])
def test_weights_leave_once_an_engine_has_copied_them(stage: int, dtype: torch.dtype) -> None:
    stepper = stepper_of(stage, dtype)
    train(stepper, 0)
    parts = [getattr(each, "ds_tensor", each) for each in stepper.main.module.parameters()]
    weights = sum(value.numel() for _, value in stepper.main.whole_parameters())
    with (offloading := Offloading(stepper, True, copied=True)):
        assert all(part.untyped_storage().nbytes() for part in parts), "the engine has yet to copy them"
        offloading.leave_weights()
        assert not any(part.untyped_storage().nbytes() for part in parts)
        away = sum(len(waiting) for _, waiting in offloading._waiting)
        assert away >= resting_states(weights, stage, 1, False, True), "at least the amount in the estimate of memory"
    assert all(part.untyped_storage().nbytes() for part in parts)


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize(("stage", "dtype"), STAGES[2:])  # at stage 0 each weight is a block of its own
def test_host_memory_is_what_the_estimate_says(stage: int, dtype: torch.dtype, copied: bool) -> None:
    stepper = stepper_of(stage, dtype)
    train(stepper, 0)
    rollout = "vllm" if copied else "hf"
    config = compose(["algo=grpo", "reward=tiny", f"rollout={rollout}", "rollout.offload_idle=true", f"zero='{stage}'"])
    shape = Shape.of(small_lm("llama", dtype=dtype).config.to_dict())
    with (offloading := Offloading(stepper, True, copied)):
        offloading.leave_weights()
        blocks = [pinned(len(waiting)) for _, waiting in offloading._waiting]
    assert sum(blocks) == pytest.approx(idle_state(shape, config, 1), rel=1e-4)


def test_a_critic_leaves_with_its_weights() -> None:
    stepper, critic = stepper_of(1, torch.bfloat16), stepper_of(1, torch.bfloat16)
    both = Stepper(stepper.algorithm, {"policy": stepper.main, "critic": critic.main}, stepper.world)
    with Offloading(both, True):
        assert not any(parameter.untyped_storage().nbytes() for parameter in critic.main.module.parameters())
        assert all(parameter.untyped_storage().nbytes() for parameter in stepper.main.module.parameters())


def test_engines_stay_where_nothing_is_gained() -> None:
    stepper = stepper_of(0, torch.float32)
    for given in (["algo=grpo"], ["algo=grpo", "rollout.offload_idle=true"], ["algo=grpo", "rollout=vllm_server"], []):
        assert not open_offloading(stepper, compose(given)).moves, "on CPU"


@pytest.mark.slow
def test_a_run_whose_engines_rest_ends_with_the_same_weights(small_model: Path, tmp_path: Path) -> None:
    """The run is PPO with a critic; it is also stopped in the middle of a round and saves a checkpoint there."""
    common = ("train", *BASE, "algo=ppo", "reward=tiny", f"model.path={small_model}")
    rest = "+callbacks.rest={_target_: tests.support.killer.RestEngines}"
    cli(*common, f"run_dir={tmp_path / 'whole'}", cwd=ROOT)
    stop = "+callbacks.stop={_target_: tests.support.killer.Touch, event: shard_done, step: 4}"
    cli(*common, f"run_dir={tmp_path / 'run'}", rest, stop, cwd=ROOT, check_code=CONTINUE_LATER)
    cli(*common, f"run_dir={tmp_path / 'run'}", rest, cwd=ROOT)
    assert_bitwise_equal(tmp_path / "run", tmp_path / "whole")
