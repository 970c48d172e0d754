"""Run as `python -m tests.support.vllm_check KEY=VALUE...`: writes with vLLM and with transformers, and prints their gap.

Each rank prints a line of JSON. The policy's weights change between the first and the second comparison.
"""

import json
import os
import sys
from typing import Any

import numpy as np
import torch

from psychocounsel.data.group import Group
from psychocounsel.distributed.world import World
from psychocounsel.engine.engines import build_engine
from psychocounsel.engine.zero import Engine
from psychocounsel.model.load import load_chat_format
from psychocounsel.rollout.base import Rollout, Sampling
from psychocounsel.rollout.hf import HFRollout
from psychocounsel.settings import config as configs


def compare(vllm: Rollout, hf: HFRollout, groups: list[Group], temperature: float, seed: int) -> dict[str, Any]:
    """Whether the tokens are the same, and how far the log-probabilities of vLLM's are from the policy's."""
    sampling = Sampling(1 if not temperature else 4, temperature, 40, 128, seed)
    made = vllm.generate(groups, sampling)
    replies = [completion for group in made for completion in group.completions]
    found: dict[str, Any] = {
        "ids": [reply.ids.tolist() for reply in replies],
        "reasons": sorted({str(reply.finish_reason) for reply in replies}),
        "versions": sorted({reply.policy_version for reply in replies}),
        "difference": max(_difference(hf, group, temperature) for group in made),
    }
    if not temperature:
        expected = [completion for group in hf.generate(groups, sampling) for completion in group.completions]
        found["same"] = found["ids"] == [reply.ids.tolist() for reply in expected]
        found["texts"] = [reply.text for reply in replies] == [reply.text for reply in expected]
    return found


def _difference(hf: HFRollout, group: Group, temperature: float) -> float:
    """The largest difference of a reply's log-probabilities to those of the plain model, with one pass for each reply."""
    worst = 0.0
    for reply in group.completions:
        ids = torch.tensor([[*group.prompt_ids.tolist(), *reply.ids.tolist()]])
        with torch.no_grad(), hf.policy.attention.plain(hf.policy.lm):
            logits = hf.policy.lm(input_ids=ids).logits[0, len(group.prompt_ids) - 1 : -1].float()
        logprobs = (logits / (temperature or 1.0)).log_softmax(-1)
        mine = logprobs.gather(1, ids[0, len(group.prompt_ids) :, None]).squeeze(1).numpy()
        assert reply.logprobs is not None
        worst = max(worst, float(np.abs(mine - reply.logprobs).max()))
    return worst


def change(engine: Engine) -> None:
    """Move all that is trained, on all ranks alike."""
    import deepspeed

    torch.manual_seed(3)
    trained = [parameter for parameter in engine.module.parameters() if parameter.requires_grad]
    partitioned = hasattr(trained[0], "ds_id")
    with torch.no_grad(), deepspeed.zero.GatheredParameters(trained, modifier_rank=0, enabled=partitioned):
        for parameter in trained:
            parameter.add_(0.02 * torch.randn_like(parameter))


def main(overrides: list[str]) -> None:
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    config: Any = configs.check(
        configs.compose(["algo=online_dpo", "rollout=vllm", f"cluster.processes={size}", *overrides])
    )
    algorithm = configs.build(config, "algo")
    tokenizer, chat = load_chat_format(config.model)
    world = World(rank, size)
    engine = build_engine(config, algorithm, world, tokenizer)
    more = (config, engine, tokenizer, [chat.end_token()], world)
    threads = torch.get_num_threads()
    vllm = configs.build(config, "rollout").open(*more)
    torch.set_num_threads(threads)
    hf = HFRollout(engine.module, tokenizer, [chat.end_token()], 64)
    hf.together = world if config.zero.stage == 3 else None
    rng = np.random.default_rng([7, rank])
    groups = [Group(str(n), rng.integers(3, 2000, length, dtype=np.int32)) for n, length in enumerate((5, 30, 12))]
    found: dict[str, Any] = {"rank": rank, "threads": torch.get_num_threads() == threads}
    vllm.sync(0)
    hf.sync(0)
    found["before"] = compare(vllm, hf, groups, 0.0, 0)
    change(engine)
    vllm.sync(5)
    found["after"] = compare(vllm, hf, groups, 0.0, 0)
    found["drawn"] = compare(vllm, hf, groups, 0.7, 1)
    found["again"] = compare(vllm, hf, groups, 0.7, 1)["ids"] == found["drawn"]["ids"]
    found["other"] = compare(vllm, hf, groups, 0.7, 2)["ids"] != found["drawn"]["ids"]
    found["nothing"] = len(vllm.generate(groups if rank == 0 else [], Sampling(1, 1.0, 5, 128, 3)))
    print(json.dumps(found), flush=True)
    world.barrier()
    os._exit(0)  # as a worker ends


if __name__ == "__main__":
    main(sys.argv[1:])
