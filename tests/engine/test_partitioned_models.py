"""At ZeRO stage 3 a rank holds its part of the critic and of the frozen reference, whose values are those of whole models."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psychocounsel.distributed.world import World
from psychocounsel.engine import engines
from psychocounsel.engine.references import before_training
from psychocounsel.engine.step import Stepper
from psychocounsel.model.tokenizer import load_chat_format
from psychocounsel.settings import config as configs
from tests.support.composed import check, compose
from tests.support.harness import random_groups
from tests.support.ranks import in_ranks

_RANKS = 2


def measured(world: World, model: Path, stage: int, critic: str) -> dict[str, Any]:
    """Return the elements that this rank holds of the reference and of the critic, and their values for some groups.

    `loaded` is the largest number of elements that the critic had here before its engine began.
    """
    typed = ["algo=ppo", f"algo.critic={critic}", "reward=tiny", f"model.path={model}", "rollout.offload_idle=true"]
    given = [f"zero='{stage}'", "zero.persistence_elements=0", "global_batch_size=4", f"cluster.processes={world.size}"]
    config = check(compose([*typed, *given]))
    algorithm, tokenizer = configs.build(config, "algo"), load_chat_format(config.model)[0]
    loaded = []

    class Watched(engines.Engine):
        def __init__(self, module: Any, *more: Any) -> None:
            loaded.append(held(module))
            super().__init__(module, *more)

    engines.Engine = Watched  # type: ignore[misc]
    both = engines.build_engines(config, algorithm, world, tokenizer)
    stepper = Stepper(algorithm, both, world, 256, batch=4)
    reference: Any = before_training(stepper, config)
    groups = random_groups(6, vocabulary=200)
    rows = [row for rows in reference.logprobs(groups) for row in rows]
    values = [row for rows in stepper.per_token(groups, both["critic"].module) for row in rows]
    return {
        "loaded": loaded[-1],
        "reference": held(reference.model),
        "logprobs": np.concatenate(rows),
        "values": np.concatenate(values),
    }


def held(module: Any) -> int:
    return sum(getattr(parameter, "ds_tensor", parameter).numel() for parameter in module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("critic", ["policy", "reward"])
def test_ranks_hold_parts_and_compute_the_same(critic: str, small_model: Path) -> None:
    model = small_model if critic == "policy" else Path("builtin:tiny")
    whole, parts = (in_ranks(_RANKS, measured, model, stage, critic) for stage in (2, 3))
    for name in ("loaded", "reference"):
        assert parts[name] <= whole[name] / _RANKS * 1.01, f"{name}: each rank has its part alone"
    np.testing.assert_array_equal(parts["logprobs"], whole["logprobs"])
    np.testing.assert_array_equal(parts["values"], whole["values"])
