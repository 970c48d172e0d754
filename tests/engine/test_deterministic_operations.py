"""With `deterministic=true` torch refuses some operations on a GPU: sampling, losses and backward passes use none of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from psychocounsel.data.batch import build_batch
from psychocounsel.data.group import Group
from psychocounsel.model.attention import block_mask, by_sequence
from psychocounsel.model.packed import Policy
from psychocounsel.rollout.base import Sampling
from psychocounsel.rollout.hf import HFRollout
from psychocounsel.settings import config as configs
from tests.support.composed import checked
from tests.support.deterministic import AsOnGPU
from tests.support.harness import ARCHITECTURES, ROOT, TINY, make_stepper, random_groups, small_lm
from tests.support.parity import Models

pytestmark = pytest.mark.usefixtures("in_process_training")

ALGORITHMS = sorted(path.stem for path in (ROOT / "conf" / "algo").glob("*.yaml"))


def with_figures(groups: list[Group]) -> list[Group]:
    """Give each completion what rollouts and `collect` give it. For KTO the first reply of a group is a good one."""
    rng = np.random.default_rng(0)
    for group in groups:
        group.completions[0].label = True
    for completion in (completion for group in groups for completion in group.completions):
        size = len(completion.ids)
        completion.reward, completion.logprobs = float(rng.normal()), rng.normal(-5.5, 0.3, size).astype(np.float32)
        completion.ratings = rng.integers(1, 6, 7).astype(np.float32)
        completion.values, completion.returns, completion.advantages = rng.normal(size=(3, size)).astype(np.float32)
    return groups


@pytest.mark.parametrize(
    "refused",
    [
        lambda: torch.rand(3).cumsum(0),
        lambda: torch.ones(3, dtype=torch.long).cumsum(0, dtype=torch.float64),
        lambda: torch.rand(3).median(0),
        lambda: torch.bincount(torch.arange(3), torch.rand(3)),
        lambda: torch.nn.functional.cross_entropy(torch.rand(2, 3), torch.tensor([0, 1])),
        lambda: torch.rand(3).requires_grad_().cumprod(0).sum().backward(),
    ],
)
def test_what_torch_refuses_is_refused_here(refused: Callable[[], Any]) -> None:
    with AsOnGPU(), pytest.raises(RuntimeError, match="no deterministic implementation"):
        refused()


def test_other_uses_of_these_operations_are_not() -> None:
    with AsOnGPU():
        torch.ones(3, dtype=torch.long).cumsum(0)
        torch.rand(3).median()
        torch.use_deterministic_algorithms(False)
        torch.rand(3).cumsum(0)


@pytest.mark.parametrize(
    ("kind", "temperature", "top_p", "top_k"),
    [
        *((kind, 1.0, 0.9, 5) for kind in ARCHITECTURES),
        *(("llama", *sampling) for sampling in ((0.0, 1.0, 0), (1.0, 1.0, 0), (0.7, 0.9, 0))),
    ],
)
def test_replies_are_drawn(kind: str, temperature: float, top_p: float, top_k: int) -> None:
    rollout = HFRollout(Policy(small_lm(kind), "test"), AutoTokenizer.from_pretrained(TINY), [7], 64)
    with AsOnGPU():
        made = rollout.generate(random_groups(3), Sampling(2, temperature, 8, 512, 0, top_p, top_k))
    assert all(len(group.completions) == 2 for group in made)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_a_step_of_training(algo: str) -> None:
    critic = ["algo.critic=shared"] if algo == "ppo" else []
    algorithm = configs.build(checked(f"algo={algo}", *critic), "algo")
    groups = with_figures(random_groups(4, completions=1 if algo == "sft" else 2))
    scores = algorithm.needs.main == "reward_model"
    # In bfloat16 the CPU computes as a GPU does, without kernels of its own; the scores of a reward model are float32.
    stepper = make_stepper(small_lm(rewards=scores), algorithm, 60, torch.float32 if scores else torch.bfloat16)
    with AsOnGPU():
        if not scores:
            stepper.per_token(groups)
        if algo == "kto":  # its loss subtracts a figure of the whole batch
            groups = algorithm.batch_groups(groups, Models(policy=stepper))
        stepper.accumulate(groups, train=True)
        assert stepper.main.step(1e-3) > 0


def test_attention_on_gpu() -> None:
    batch = build_batch([random_groups(3)])
    query, key, value = torch.randn(3, 1, 4, batch.input_ids.shape[1], 8, requires_grad=True)
    with AsOnGPU():
        block_mask(batch, window=6)
        by_sequence(query, key, value, batch.layout, None, 6).sum().backward()
        key[0].transpose(0, 1)[batch.layout.on(key.device)[0]].sum().backward()
