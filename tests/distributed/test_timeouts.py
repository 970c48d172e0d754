"""All process groups of training wait as long as the default group, so that the watchdog ends a hang first."""

from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Backend, _get_default_timeout

from psychocounsel.distributed.world import World
from psychocounsel.engine.engines import build_engine
from psychocounsel.model.tokenizer import load_chat_format
from psychocounsel.settings import config as configs
from tests.support.composed import checked
from tests.support.ranks import in_ranks


def timeouts(world: World) -> list[timedelta]:
    """Return the time-outs of the default group, of DeepSpeed's two groups, and of a later group with NCCL."""
    config: Any = checked("algo=dpo", "zero=3", f"cluster.processes={world.size}")
    tokenizer, _ = load_chat_format(config.model)
    engine = build_engine(config, configs.build(config, "algo"), world, tokenizer)
    weight: Any = next(engine.module.parameters())
    # The last one gathers weights, for a rollout too.
    groups: list[Any] = [dist.group.WORLD, engine.deepspeed.data_parallel_group, weight.ds_process_group]
    backends = [group._get_backend(torch.device("cpu")) for group in groups]
    return [backend.options._timeout for backend in backends] + [_get_default_timeout(Backend(Backend.NCCL))]


@pytest.mark.slow
def test_deepspeeds_groups_wait_as_long_as_the_default_group() -> None:
    assert in_ranks(2, timeouts) == [timedelta(minutes=2)] * 4
