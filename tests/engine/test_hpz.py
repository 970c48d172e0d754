"""`zero.hpz`: weights leave a group of GPUs once a step, training is unchanged, and other settings are refused."""

from collections import Counter

import pytest
import torch

from psychocounsel.algo.dpo import DPO
from psychocounsel.cluster.memory.gpu import state_parts
from psychocounsel.distributed.world import World
from psychocounsel.engine import zero
from psychocounsel.engine.step import Stepper
from psychocounsel.errors import UserError
from psychocounsel.model.packed import Policy
from tests.support.composed import check, compose
from tests.support.harness import random_groups, small_lm
from tests.support.ranks import in_ranks

_TWO_NODES = ["cluster=slurm", "cluster.nodes=2", "cluster.gpus_per_node=4"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["zero=2", "zero.hpz=4"], "zero.hpz=4 needs zero=3, not zero.stage=2"),
        (["zero=auto", "zero.hpz=4"], "zero.hpz=4 needs zero=3, not zero.stage=auto"),
        (["zero=3_offload", "zero.hpz=4"], "zero.hpz=4: its copy is on the GPU; use zero.hpz=1 or zero.offload_param"),
        (["zero=3", "zero.hpz=3"], "zero.hpz=3 must divide the 4 processes of a node: use zero.hpz=4"),
        (["zero=3", "zero.hpz=8"], "zero.hpz=8 must divide the 4 processes of a node: use zero.hpz=4"),
    ],
)
def test_what_cannot_work_is_refused(given: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check(compose([*_TWO_NODES, *given]))


def test_a_group_of_the_size_of_a_node_passes() -> None:
    assert check(compose([*_TWO_NODES, "zero=3", "zero.hpz=4"])).zero.hpz == 4


def test_the_copy_is_in_the_estimate() -> None:
    plain, with_copy = (state_parts(8000, 10, 3, 16, hpz=hpz) for hpz in (1, 8))
    assert with_copy == {**plain, "weights": plain["weights"] + 2 * 8000 / 8}


def _trained(world: World, hpz: int) -> tuple[int, dict[int, int], list[float]]:
    """Return the number of weights, the weights gathered in the second step by size of the group, and the weights after it."""
    from deepspeed.runtime.zero import partition_parameters

    gather, made, gathered = partition_parameters._dist_allgather_fn, zero.deepspeed_config, Counter[int]()

    def counting(part: torch.Tensor, whole: torch.Tensor, group: object = None) -> object:
        gathered[torch.distributed.get_world_size(group)] += whole.numel()
        return gather(part, whole, group)

    def releasing(*given: object) -> dict[str, object]:
        """Return a configuration with which each layer's weights are released after use, as in a large model."""
        settings = made(*given)
        at_once = ("max_live_parameters", "max_reuse_distance", "prefetch_bucket_size")
        settings["zero_optimization"] |= dict.fromkeys([f"stage3_{name}" for name in at_once], 0)
        return settings

    partition_parameters._dist_allgather_fn, zero.deepspeed_config = counting, releasing
    config = compose(["zero=3", "zero.persistence_elements=0", f"zero.hpz={hpz}"])
    torch.manual_seed(0)
    algorithm = DPO(lr=1e-3)
    model = Policy(small_lm("llama", dtype=torch.bfloat16), "test", attention=config.model.attention)
    engine = zero.Engine(model, config, algorithm, torch.bfloat16)
    stepper = Stepper(algorithm, {"policy": engine}, world, 64)
    for step in range(2):
        gathered.clear()
        engine.train(True)
        stepper.accumulate(random_groups(16, seed=step), train=True)
        engine.step(1e-3)
    in_second = dict(gathered)
    weights = [number for _, value in engine.whole_parameters() for number in value.flatten().tolist()]
    return len(weights), in_second, weights


@pytest.mark.slow
def test_weights_leave_a_node_once_a_step_and_training_is_unchanged() -> None:
    """Two micro-batches pass forward and backward, so each step gathers the weights four times."""
    count, everywhere, expected = in_ranks(4, _trained, 1)
    assert everywhere == {4: 4 * count}
    _, gathered, weights = in_ranks(4, _trained, 2)
    assert gathered == {4: count, 2: 3 * count}
    assert weights == expected, "to the bit"
