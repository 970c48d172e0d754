"""Training state and frozen models in host memory: what moves, what remains, and a training that continues unchanged."""

from pathlib import Path

import pytest
import torch

from psychocounsel.algo.dpo import DPO
from psychocounsel.cluster.memory.gpu import resting_states
from psychocounsel.distributed.world import World
from psychocounsel.engine.rounds.resting import Resident, Resting, node_copies, open_resting, resident
from psychocounsel.engine.step import Stepper
from psychocounsel.errors import CONTINUE_LATER, UserError
from psychocounsel.reward.local_model import LocalScorer
from psychocounsel.settings.config import compose
from tests.algo.test_online_dpo import BASE
from tests.engine.test_resume import assert_bitwise_equal
from tests.reward.test_local_model import CONVERSATIONS
from tests.reward.test_servers import REWARD
from tests.support.harness import ROOT, cli, make_stepper, random_groups, small_lm, world
from tests.support.ranks import in_ranks

# Offloaded training state: the moved and the remaining tensors, and a training that continues unchanged.

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
        resting = Resting(stepper, rests, copied)
        for step in range(3):
            train(stepper, step)
            with resting:
                for _, value in stepper.main.whole_parameters():
                    assert value.isfinite().all(), (
                        "the weights remain, because replies are written with them or they are yet to be copied"
                    )
                resting.leave_weights()
        found.append([value.clone() for _, value in stepper.main.whole_parameters()])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize(("stage", "dtype"), STAGES[1:])  # the estimate is of bfloat16
def test_optimizer_state_and_master_weights_leave(stage: int, dtype: torch.dtype) -> None:
    stepper = stepper_of(stage, dtype)
    train(stepper, 0)
    resting = Resting(stepper, True)
    weights = sum(value.numel() for _, value in stepper.main.whole_parameters())
    optimizer = stepper.main.deepspeed.optimizer
    moments = [state["exp_avg"] for state in getattr(optimizer, "optimizer", optimizer).state.values()]
    with resting:
        assert not any(moment.untyped_storage().nbytes() for moment in moments)
        away = sum(len(waiting) for _, waiting in resting._waiting)
        assert away >= resting_states(weights, stage, 1, False, False), "at least the amount in the estimate of memory"
        resting.end()
        assert all(moment.untyped_storage().nbytes() for moment in moments), "the state is back for a checkpoint"
    assert not resting._waiting


@pytest.mark.parametrize(("stage", "dtype"), STAGES[1:])
def test_weights_leave_once_an_engine_has_copied_them(stage: int, dtype: torch.dtype) -> None:
    stepper = stepper_of(stage, dtype)
    train(stepper, 0)
    parts = [getattr(each, "ds_tensor", each) for each in stepper.main.module.parameters()]
    weights = sum(value.numel() for _, value in stepper.main.whole_parameters())
    with (resting := Resting(stepper, True, copied=True)):
        assert all(part.untyped_storage().nbytes() for part in parts), "the engine has yet to copy them"
        resting.leave_weights()
        assert not any(part.untyped_storage().nbytes() for part in parts)
        away = sum(len(waiting) for _, waiting in resting._waiting)
        assert away >= resting_states(weights, stage, 1, False, True), "at least the amount in the estimate of memory"
    assert all(part.untyped_storage().nbytes() for part in parts)


def test_a_critic_leaves_with_its_weights() -> None:
    stepper, critic = stepper_of(1, torch.bfloat16), stepper_of(1, torch.bfloat16)
    both = Stepper(stepper.algorithm, {"policy": stepper.main, "critic": critic.main}, stepper.world)
    with Resting(both, True):
        assert not any(parameter.untyped_storage().nbytes() for parameter in critic.main.module.parameters())
        assert all(parameter.untyped_storage().nbytes() for parameter in stepper.main.module.parameters())


def test_engines_stay_where_nothing_is_gained() -> None:
    stepper = stepper_of(0, torch.float32)
    for given in (["algo=grpo"], ["algo=grpo", "rollout.offload_idle=true"], ["algo=grpo", "rollout=vllm_server"], []):
        assert not open_resting(stepper, compose(given)).moves, "on CPU"


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


# Tests of frozen models that are in host memory while they are not used.


def test_weights_come_to_the_device_and_what_waited_is_the_same_afterwards() -> None:
    scorer = LocalScorer.load(str(REWARD))
    expected = scorer.score(CONVERSATIONS)
    weight = next(scorer.model.parameters())
    waiting = Resident(scorer.models, world())
    on_host = weight.data_ptr()
    for _ in range(2):
        with waiting:
            assert weight.data_ptr() != on_host
            assert (scorer.score(CONVERSATIONS) == expected).all()
        assert weight.data_ptr() == on_host
    with pytest.raises(KeyError), waiting:
        raise KeyError
    assert weight.data_ptr() == on_host


def test_models_on_cpu_stay_where_they_are() -> None:
    scorer = LocalScorer.load(str(REWARD))
    before = [parameter.data_ptr() for parameter in scorer.model.parameters()]
    with resident(scorer.models, world(), offload=True):
        assert [parameter.data_ptr() for parameter in scorer.model.parameters()] == before


def _shares(world: World) -> tuple[list[bool], bool, list[str]]:
    """Return if each rank's copies equal the model's weights, and if rank 1 sees rank 0's writes to them."""
    weights = [parameter.data for parameter in small_lm().parameters()]
    weights.append(torch.arange(5, dtype=torch.bfloat16))
    copies = node_copies(weights, world)
    equal = world.gather(all(torch.equal(*pair) for pair in zip(weights, copies, strict=True)))
    if world.rank == 0:
        copies[0].zero_()
    world.barrier()
    seen = world.gather(not copies[0].any())[1]
    return equal, seen, [file.name for file in Path("/dev/shm").glob("psychocounsel-frozen-*")]


def test_the_ranks_of_a_machine_share_one_copy() -> None:
    before = [file.name for file in Path("/dev/shm").glob("psychocounsel-frozen-*")]
    equal, seen, files = in_ranks(2, _shares)
    assert equal == [True, True] and seen and set(files) <= set(before)


def _too_large(world: World) -> str:
    try:
        node_copies([torch.empty(1, dtype=torch.uint8).expand(1 << 50)], world)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_too_little_shared_memory_is_said() -> None:
    said = in_ranks(2, _too_large)
    assert "cannot share 1125899.9 GB in /dev/shm (" in said and "or use rollout.offload_idle=false" in said


@pytest.mark.slow
def test_a_run_asks_models_only_while_they_are_there(small_model: Path, tmp_path: Path) -> None:
    """Several reward models and the reference give the same values, although their weights are away in between."""
    members = "reward.members=[builtin:tiny_reward,{name: tiny}]"
    common = ("train", *BASE, f"model.path={small_model}", "reward=ensemble", members)
    away = "+callbacks.away={_target_: tests.support.killer.TakeAway}"
    cli(*common, f"run_dir={tmp_path / 'whole'}", cwd=ROOT)
    cli(*common, f"run_dir={tmp_path / 'run'}", "rollout.offload_idle=true", away, cwd=ROOT)
    assert_bitwise_equal(tmp_path / "run", tmp_path / "whole")
