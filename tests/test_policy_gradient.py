"""RLOO and GRPO against their formulas, one reply at a time."""

from typing import Any

import numpy as np
import pytest
import torch

from psychocounsel.algo.base import Outputs
from psychocounsel.algo.grpo import GRPO
from psychocounsel.algo.rloo import RLOO
from psychocounsel.data.batch import build_batch
from psychocounsel.data.group import Completion, Group

LENGTHS = [(5, 3, 7), (2, 4, 1), (6, 6, 2)]


class Context:
    """What `collect` asks for, from a table."""

    rng = np.random.default_rng(0)

    def __init__(self, tables: dict[str, list[list[np.ndarray]]]) -> None:
        self.tables = tables

    def count(self, name: str, number: float) -> None:
        pass

    def logprobs(self, model: str, groups: list[Group]) -> list[list[np.ndarray]]:
        return self.tables[model]


def collected(algorithm: Any, seed: int = 0) -> tuple[list[Group], Context]:
    rng = np.random.default_rng(seed)

    def floats() -> list[list[np.ndarray]]:
        return [[rng.normal(-2, 0.5, length).astype(np.float32) for length in some] for some in LENGTHS]

    groups = [
        Group(str(number), rng.integers(0, 9, 4, dtype=np.int32), [
            Completion(rng.integers(0, 9, length, dtype=np.int32), reward=float(rng.normal())) for length in some
        ])
        for number, some in enumerate(LENGTHS)
    ]  # fmt: skip
    ctx = Context({"policy": floats(), "reference": floats()})
    return algorithm.collect(groups, ctx), ctx


def loss_of(algorithm: Any, groups: list[Group], logprobs: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    batch = build_batch([groups])
    terms = algorithm.loss(Outputs(logprobs=logprobs), batch)
    units = {"completions": 9, "tokens": int(batch.completion_lengths.sum())}
    values = {name: term.sum / units[term.unit] for name, term in terms.items()}
    return sum((terms[name].weight * value for name, value in values.items()), torch.zeros(())), values


def flat(groups: list[Group], name: str) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([getattr(c, name) for group in groups for c in group.completions]))


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_rloo(shift: float) -> None:
    algorithm = RLOO(kl_weight=0.3, reward_weight=0.7, clip=0.25)
    groups, ctx = collected(algorithm)
    noise = torch.randn(flat(groups, "logprobs").shape, generator=torch.Generator().manual_seed(1)) * shift
    logprobs = (flat(groups, "logprobs") + noise).requires_grad_()
    loss, metrics = loss_of(algorithm, groups, logprobs)
    total, start, clipped = torch.zeros(()), 0, 0
    for number, group in enumerate(groups):
        returns = [
            0.7 * completion.reward - 0.3 * float((policy - reference).sum())
            for completion, policy, reference in zip(
                group.completions, ctx.tables["policy"][number], ctx.tables["reference"][number], strict=True
            )
        ]
        for place, completion in enumerate(group.completions):
            advantage = returns[place] - np.mean(returns[:place] + returns[place + 1 :])
            span = slice(start, start := start + len(completion.ids))
            ratio = (logprobs[span] - flat(groups, "logprobs")[span]).sum().exp()
            clipped += bool(abs(ratio - 1) > 0.25)
            total = total - torch.min(advantage * ratio, advantage * ratio.clamp(0.75, 1.25)) / 9
    assert loss.item() == pytest.approx(total.item(), rel=1e-5, abs=1e-6)
    (mine,), (expected,) = torch.autograd.grad(loss, logprobs), torch.autograd.grad(total, logprobs)
    torch.testing.assert_close(mine, expected)
    assert metrics["clip_fraction"].item() == pytest.approx(clipped / 9) and (clipped > 0) == (shift > 0)
    if not shift:
        assert metrics["ratio"] == 1


@pytest.mark.parametrize("normalise_std", [True, False])
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_grpo(shift: float, normalise_std: bool) -> None:
    algorithm = GRPO(kl_weight=0.2, clip_low=0.1, clip_high=0.3, normalise_std=normalise_std)
    groups, ctx = collected(algorithm)
    noise = torch.randn(flat(groups, "logprobs").shape, generator=torch.Generator().manual_seed(1)) * shift
    logprobs = (flat(groups, "logprobs") + noise).requires_grad_()
    loss, metrics = loss_of(algorithm, groups, logprobs)
    total, start = torch.zeros(()), 0
    for group, references in zip(groups, ctx.tables["reference"], strict=True):
        rewards = np.array([completion.reward for completion in group.completions])
        for completion, reference in zip(group.completions, references, strict=True):
            advantage = completion.reward - rewards.mean()
            advantage = advantage / (np.std(rewards, ddof=1) + 1e-4) if normalise_std else advantage
            tokens = torch.zeros(())
            for place in range(len(completion.ids)):
                now, before = logprobs[start], flat(groups, "logprobs")[start]
                ratio = (now - before).exp()
                behind = torch.tensor(reference[place]) - now
                tokens = tokens - torch.min(advantage * ratio, advantage * ratio.clamp(0.9, 1.3))
                tokens = tokens + 0.2 * (behind.exp() - behind - 1)
                start += 1
            total = total + tokens / len(completion.ids) / 9
    assert loss.item() == pytest.approx(total.item(), rel=1e-5, abs=1e-6)
    (mine,), (expected,) = torch.autograd.grad(loss, logprobs), torch.autograd.grad(total, logprobs)
    torch.testing.assert_close(mine, expected)
    assert (metrics["ratio"] == 1) == (shift == 0)
