"""Tests of frozen models that are in host memory while they are not used."""

from pathlib import Path

import pytest
import torch

from psychocounsel.distributed.world import World
from psychocounsel.engine.rounds.offloading import OnDevice, node_copies, on_device
from psychocounsel.errors import UserError
from psychocounsel.reward.local_model import LocalScorer
from tests.algo.test_online_dpo import BASE
from tests.engine.test_resume import assert_bitwise_equal
from tests.reward.test_local_model import CONVERSATIONS
from tests.reward.test_servers import REWARD
from tests.support.harness import ROOT, cli, small_lm, world
from tests.support.ranks import in_ranks


def test_weights_come_to_the_device_and_what_waited_is_the_same_afterwards() -> None:
    scorer = LocalScorer.load(str(REWARD))
    expected = scorer.score(CONVERSATIONS)
    weight = next(scorer.model.parameters())
    waiting = OnDevice(scorer.models, world())
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
    with on_device(scorer.models, world(), offload=True):
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


@pytest.mark.slow
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
    """Two reward models and the reference give the same values, although their weights are away in between.

    The reward models arrive once in each of three rounds of three shards, and at four evaluations.
    """
    members = "reward.members=[builtin:tiny_reward,{name: tiny}]"
    common = ("train", *BASE, f"model.path={small_model}", "reward=ensemble", members)
    arrivals = tmp_path / "arrivals"
    away = f"+callbacks.away={{_target_: tests.support.killer.TakeAway, arrivals: '{arrivals}'}}"
    cli(*common, f"run_dir={tmp_path / 'whole'}", cwd=ROOT)
    cli(*common, f"run_dir={tmp_path / 'run'}", "rollout.offload_idle=true", away, cwd=ROOT)
    assert_bitwise_equal(tmp_path / "run", tmp_path / "whole")
    assert arrivals.read_text().split().count("2") == 3 + 4
