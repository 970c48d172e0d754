"""Helpers of the parity tests against TRL: invented data, a recorded training run of ours, and comparisons."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from psychocounsel.algo.base import Algorithm
from psychocounsel.algo.sft import SFT
from psychocounsel.data.group import Group
from psychocounsel.data.rows import parse_row
from psychocounsel.data.tokenise import tokenise
from psychocounsel.engine.schedule import learning_rate
from psychocounsel.engine.step import Stepper, metrics_of
from psychocounsel.model.tokenizer import load_chat_format
from tests.support.composed import check, compose
from tests.support.harness import make_stepper, small_lm
from tests.support.trl_oracle import Recording, Tensors, gradients_of, parameters_of

STEPS, BATCH = 3, 6
BUDGET = 220  # tokens per micro-batch of ours, so that a batch needs several; TRL trains on each batch whole
TOLERANCE = 1e-5

# Adam's epsilon is far above the rounding noise of gradients. With a smaller one, Adam would amplify the noise to full updates.
OURS = {
    **{"lr": 1e-3, "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0, "max_grad_norm": 1.0},
    **{"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_eps": 1e-5},
}
THEIRS = {
    **{"learning_rate": 1e-3, "lr_scheduler_type": "constant", "warmup_steps": 0, "weight_decay": 0.0},
    **{"max_grad_norm": 1.0, "adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-5},
    "per_device_train_batch_size": BATCH,
}

_TEXT = """I feel worried about work and cannot sleep . My sister says that it will pass , but every evening the same
thoughts come back ; what would help you to rest ? Thank you for telling me how heavy this week was"""


def rows() -> list[dict[str, Any]]:
    """Return pairs of invented conversations with one to four messages before the reply. Every third one is long."""
    rng = np.random.default_rng(7)
    words = _TEXT.split()
    prompts = [["user"], ["system", "user"], ["user", "assistant", "user"], ["system", "user", "assistant", "user"]]

    def row(number: int) -> dict[str, Any]:
        shortest, longest = (2, 6) if number % 3 else (10, 30)
        turns = (prompts[number % 4], ["assistant"], ["assistant"])
        made = [
            [{"role": role, "content": " ".join(rng.choice(words, rng.integers(shortest, longest)))} for role in roles]
            for roles in turns
        ]
        return dict(zip(("prompt", "chosen", "rejected"), made, strict=True))

    return [row(number) for number in range(STEPS * BATCH)]


@cache
def chat() -> Any:
    """Return the shipped tokenizer and its chat format."""
    return load_chat_format(check(compose([])).model)


def groups_of(kind: str, data: list[dict[str, Any]] | None = None) -> list[Group]:
    """Return the tokenised groups of `data`, or of `rows()` if it is None."""
    data = data or rows()
    examples = [parse_row(row, f"row {number}") for number, row in enumerate(data)]
    groups = tokenise(examples, chat()[1], kind, max_length=512)
    assert len(groups) == STEPS * BATCH
    return groups


def ids_of(group: Group) -> list[list[int]]:
    """Return the token ids of each reply, preceded by those of the prompt."""
    return [[*group.prompt_ids.tolist(), *completion.ids.tolist()] for completion in group.completions]


def model(seed: int = 0, **changes: Any) -> Any:
    return small_lm(seed=seed, vocab_size=len(chat()[0]), **changes)


class Models:
    """Models of a run, in the form that `collect` and `batch_groups` need: `Models(reference=stepper)`."""

    rng = np.random.default_rng(0)

    def __init__(self, **steppers: Stepper) -> None:
        self.steppers = steppers

    def logprobs(self, model: str, groups: list[Group]) -> list[list[np.ndarray]]:
        return self.steppers[model].per_token(groups)


def reference_of(lm: Any, budget: int = BUDGET) -> Models:
    return Models(reference=make_stepper(lm, SFT(), budget))


def split_and_pack(stepper: Stepper, groups: list[Group]) -> None:
    """Set the budget nearest to BUDGET that gives several micro-batches and at least one row with several groups.

    Otherwise the comparison would not test splitting and packing. Lengths depend on the shipped tokenizer.
    """
    for budget in sorted(range(60, 500, 5), key=lambda budget: abs(budget - BUDGET)):
        stepper.budget = budget
        micro_batches = [batch for _, batch in stepper.micro_batches(groups)]
        if len(micro_batches) > 1 and any(batch.group_index.max() > 0 for batch in micro_batches):
            return
    raise AssertionError("no budget splits and packs this batch")


def train_ours(lm: Any, algorithm: Algorithm, groups: list[Group]) -> Recording:
    """Train `lm` in place like the engine's training loop, with the groups in the given order."""
    stepper = make_stepper(lm, algorithm, BUDGET)
    recording = Recording(start=parameters_of(lm))
    for step in range(STEPS):
        batch = algorithm.batch_groups(groups[step * BATCH : (step + 1) * BATCH], Models(policy=stepper))
        split_and_pack(stepper, batch)
        recording.metrics.append(metrics_of(stepper.accumulate(batch, train=True)[0]))
        recording.losses.append(recording.metrics[-1]["loss"])
        if step == 0:
            recording.gradients = gradients_of(lm)
        recording.norms.append(stepper.main.step(learning_rate(algorithm, step, STEPS)))
    recording.end = parameters_of(lm)
    return recording


def largest_difference(ours: Tensors, theirs: Tensors) -> float:
    """Return the largest norm of a tensor's difference, relative to the tensor's norm, over all tensors."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs)


def assert_same_training(ours: Recording, theirs: Recording) -> None:
    assert largest_difference(ours.start, theirs.start) == 0
    assert len(ours.losses) == STEPS
    assert ours.losses == pytest.approx(theirs.losses, rel=TOLERANCE)
    assert ours.norms == pytest.approx(theirs.norms, rel=TOLERANCE)
    assert largest_difference(ours.gradients, theirs.gradients) <= TOLERANCE
    assert largest_difference(ours.end, theirs.end) <= TOLERANCE
    # Three steps change some tensors by only 2e-3 of their norm. Rounding to fp32 (6e-8 of an element) is then up to 3e-5 of
    # the change; 3.9e-5 was measured.
    assert largest_difference(ours.moved, theirs.moved) <= 1e-4


def assert_same_metrics(ours: Recording, theirs: Recording, names: dict[str, str]) -> None:
    """Compare metrics step by step. `names` maps our metric names to TRL's."""
    assert len(ours.metrics) == len(theirs.metrics) == STEPS
    for mine, others in zip(ours.metrics, theirs.metrics, strict=True):
        for name, trl_name in names.items():
            # A reward is a small difference of two sums of about -100, so rounding gives errors of 5e-6 (measured).
            assert mine[name] == pytest.approx(others[trl_name], abs=2e-5), name


def plain_logprobs(lm: Any, prompt: np.ndarray, completion: np.ndarray) -> torch.Tensor:
    """Return the log-probability of each completion token from a forward pass over this prompt and reply alone."""
    ids = torch.from_numpy(np.concatenate([prompt, completion])).long()
    logits = lm(input_ids=ids[None]).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, ids[len(prompt) :, None]).squeeze(1)


def plain_ratios(lm: Any, reference: Any, prompt: np.ndarray, completion: np.ndarray) -> torch.Tensor:
    """Return the log-ratio of policy to reference for each completion token."""
    with torch.no_grad():
        before = plain_logprobs(reference, prompt, completion)
    return plain_logprobs(lm, prompt, completion) - before
