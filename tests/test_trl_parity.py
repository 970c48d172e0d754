"""SFT and DPO against TRL's trainers in fp32: the same pairs give the same losses, gradients and parameters.

What TRL has not is compared with formulas written out over plain forward passes, or with values computed by hand.
"""

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from psychocounsel.algo.base import Algorithm
from psychocounsel.algo.dpo import DPO
from psychocounsel.algo.sft import SFT
from psychocounsel.config import check, compose
from psychocounsel.data.group import Group
from psychocounsel.data.rows import parse_row
from psychocounsel.data.tokenise import tokenise
from psychocounsel.engine.schedule import learning_rate
from psychocounsel.engine.step import Stepper, metrics_of
from psychocounsel.model.load import load_chat_format
from tests.harness import make_stepper, small_lm
from tests.trl_oracle import Recording, Tensors, gradients_of, parameters_of, train_dpo, train_sft

STEPS, BATCH = 3, 6
BUDGET = 200  # tokens of a micro-batch of ours, so that a batch needs several; TRL takes each batch whole
TOLERANCE = 1e-5
BETA = 0.5  # with the margins of these models, hinge has pairs on both sides of its bend

# Adam's epsilon is well above the rounding noise of a gradient, or Adam would blow that noise up to whole updates.
OURS = {
    **{"lr": 1e-3, "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0, "max_grad_norm": 1.0},
    **{"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_eps": 1e-5},
}
THEIRS = {
    **{"learning_rate": 1e-3, "lr_scheduler_type": "constant", "warmup_steps": 0, "weight_decay": 0.0},
    **{"max_grad_norm": 1.0, "adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-5},
    "per_device_train_batch_size": BATCH,
}

# Our settings, TRL's for the same loss.
LOSSES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sigmoid": ({}, {"loss_type": ["sigmoid"]}),
    "ipo": ({"loss_type": "ipo"}, {"loss_type": ["ipo"]}),
    "hinge": ({"loss_type": "hinge"}, {"loss_type": ["hinge"]}),
    "robust": (
        {"loss_type": "robust", "label_smoothing": 0.2},
        {"loss_type": ["robust"], "label_smoothing": 0.2},
    ),
    "length_normalised": ({"length_normalised": True}, {"loss_type": ["sigmoid_norm"]}),
    "sft_weight": ({"sft_weight": 0.7}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]}),
}

_TEXT = """I feel worried about work and cannot sleep . My sister says that it will pass , but every evening the same
thoughts come back ; what would help you to rest ? Thank you for telling me how heavy this week was"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """DeepSpeed wants what a run's launcher sets; on models so small, threads only wait for each other."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rows() -> list[dict[str, Any]]:
    """Pairs of made-up conversations, one to four messages before the reply; every third is long, the others short."""
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
    """The shipped tokenizer and its chat format."""
    return load_chat_format(check(compose([])).model)


def groups_of(kind: str) -> list[Group]:
    examples = [parse_row(row, f"row {number}") for number, row in enumerate(rows())]
    groups = tokenise(examples, chat()[1], kind, max_length=512)
    assert len(groups) == STEPS * BATCH
    return groups


def model(seed: int = 0, **changes: Any) -> Any:
    return small_lm(seed=seed, vocab_size=len(chat()[0]), **changes)


def add_reference(groups: list[Group], stepper: Stepper) -> list[Group]:
    """Fill in the log-probabilities of the stepper's policy, as `collect` does in a run."""

    class Reference:
        rng = np.random.default_rng(0)

        def logprobs(self, model: str, groups: list[Group]) -> list[list[np.ndarray]]:
            assert model == "reference"
            return stepper.logprobs(groups)

    return DPO().collect(groups, Reference())


def pairs_with_reference(lm: Any) -> list[Group]:
    return add_reference(groups_of("pairs"), make_stepper(lm, SFT(), BUDGET))


def assert_split_and_packed(stepper: Stepper, groups: list[Group]) -> None:
    """Without several micro-batches, and groups that share a row, equality would show less than it seems to."""
    micro_batches = [batch for _, batch in stepper.micro_batches(groups)]
    assert len(micro_batches) > 1
    assert any(batch.group_index.max() > 0 for batch in micro_batches)


def train_ours(lm: Any, algorithm: Algorithm, groups: list[Group]) -> Recording:
    """Train `lm` in place as the engine's loop does, in the groups' order."""
    stepper = make_stepper(lm, algorithm, BUDGET)
    recording = Recording(start=parameters_of(lm))
    for step in range(STEPS):
        batch = groups[step * BATCH : (step + 1) * BATCH]
        assert_split_and_packed(stepper, batch)
        recording.metrics.append(metrics_of(stepper.accumulate(batch, train=True)[0]))
        recording.losses.append(recording.metrics[-1]["loss"])
        if step == 0:
            recording.gradients = gradients_of(lm)
        recording.norms.append(stepper.main.step(learning_rate(algorithm, step, STEPS)))
    recording.end = parameters_of(lm)
    return recording


def largest_difference(ours: Tensors, theirs: Tensors) -> float:
    """Of all tensors: norm of the difference, relative to the norm."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs)


def assert_same_training(ours: Recording, theirs: Recording) -> None:
    assert largest_difference(ours.start, theirs.start) == 0
    assert len(ours.losses) == STEPS
    assert ours.losses == pytest.approx(theirs.losses, rel=TOLERANCE)
    assert ours.norms == pytest.approx(theirs.norms, rel=TOLERANCE)
    assert largest_difference(ours.gradients, theirs.gradients) <= TOLERANCE
    assert largest_difference(ours.end, theirs.end) <= TOLERANCE
    # Three steps move some tensors by only 2e-3 of their norm, so that rounding to fp32 (6e-8 of an element) is up to
    # 3e-5 of the way; 3.9e-5 was measured.
    assert largest_difference(ours.moved, theirs.moved) <= 1e-4


def test_sft_equals_trl(tmp_path: Path) -> None:
    groups = groups_of("completions")
    theirs = train_sft(model(tie_word_embeddings=True), chat()[0], rows(), tmp_path, **THEIRS)
    for group, row in zip(groups, theirs.data, strict=True):
        prompt, completion = group.prompt_ids.tolist(), group.completions[0].ids.tolist()
        assert row["input_ids"] == prompt + completion
        assert row["labels"] == [-100] * len(prompt) + completion
    ours = train_ours(model(tie_word_embeddings=True), SFT(**OURS), groups)
    assert_same_training(ours, theirs)


@pytest.mark.parametrize("loss", LOSSES)
def test_dpo_equals_trl(loss: str, tmp_path: Path) -> None:
    settings, trl_settings = LOSSES[loss]
    groups = pairs_with_reference(model(seed=1))  # not the policy, or all margins would begin at zero
    theirs = train_dpo(model(), model(seed=1), chat()[0], rows(), tmp_path, beta=BETA, **THEIRS, **trl_settings)
    for group, row in zip(groups, theirs.data, strict=True):
        assert group.prompt_ids.tolist() == row["prompt_ids"]
        assert [c.ids.tolist() for c in group.completions] == [row["chosen_ids"], row["rejected_ids"]]
    ours = train_ours(model(), DPO(beta=BETA, **settings, **OURS), groups)
    assert_same_training(ours, theirs)
    if loss not in ("ipo", "length_normalised"):  # there our rewards are per token, as the loss, and TRL's are not
        for mine, others in zip(ours.metrics, theirs.metrics, strict=True):
            for name, trl_name in (("accuracy", "accuracies"), ("margin", "margins"), ("chosen", "chosen")):
                # A reward is a small difference of sums of about -100: rounding gives 4e-6 (measured).
                assert mine[f"rewards/{name}"] == pytest.approx(others[f"rewards/{trl_name}"], abs=2e-5), name


def plain_logprobs(lm: Any, prompt: np.ndarray, completion: np.ndarray) -> torch.Tensor:
    """Log-probability of each completion token, from a forward pass over one prompt and reply alone."""
    ids = torch.from_numpy(np.concatenate([prompt, completion])).long()
    logits = lm(input_ids=ids[None]).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, ids[len(prompt) :, None]).squeeze(1)


def plain_conservative_loss(lm: Any, reference: Any, group: Group, smoothing: float, per_token: bool) -> torch.Tensor:
    """Conservative DPO of one pair: the label is wrong with probability `smoothing`."""
    ratios = []
    for completion in group.completions:
        with torch.no_grad():
            before = plain_logprobs(reference, group.prompt_ids, completion.ids)
        ratio = plain_logprobs(lm, group.prompt_ids, completion.ids) - before
        ratios.append(ratio.mean() if per_token else ratio.sum())
    scaled = BETA * (ratios[0] - ratios[1])
    return -(1 - smoothing) * logsigmoid(scaled) - smoothing * logsigmoid(-scaled)


@pytest.mark.parametrize("per_token", [False, True])
def test_conservative_dpo_equals_its_formula(per_token: bool) -> None:
    lm, reference, plain = model(), model(seed=1), model()
    groups = pairs_with_reference(reference)[:BATCH]
    algorithm = DPO(beta=BETA, label_smoothing=0.15, length_normalised=per_token, **OURS)
    stepper = make_stepper(lm, algorithm, BUDGET)
    assert_split_and_packed(stepper, groups)
    loss = metrics_of(stepper.accumulate(groups, train=True)[0])["loss"]
    expected = torch.stack([plain_conservative_loss(plain, reference, g, 0.15, per_token) for g in groups]).mean()
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=TOLERANCE)
    assert largest_difference(gradients_of(lm), gradients_of(plain)) <= TOLERANCE


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, math.log(2)),
        ({"length_normalised": True}, math.log(2)),
        ({"label_smoothing": 0.15}, math.log(2)),
        ({"loss_type": "robust", "label_smoothing": 0.2}, math.log(2)),
        ({"loss_type": "hinge"}, 1.0),
        ({"loss_type": "ipo"}, 1 / (2 * BETA) ** 2),
    ],
)
def test_first_loss_against_the_policy_itself(settings: dict[str, Any], expected: float) -> None:
    stepper = make_stepper(model(), DPO(beta=BETA, **settings), BUDGET)
    groups = add_reference(groups_of("pairs"), stepper)
    metrics = metrics_of(stepper.accumulate(groups, train=True)[0])
    assert metrics["loss"] == pytest.approx(expected, rel=1e-6)
    assert metrics["rewards/margin"] == 0
    assert metrics["rewards/accuracy"] == 0.5
    assert stepper.main.module.lm.get_input_embeddings().weight.grad.norm() > 0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # Of 10 steps two warm up: 1/3, 2/3, then the peak; step 6 is half of the way from step 2 to 10.
        ({"schedule": "constant"}, {0: 1 / 3, 1: 2 / 3, 2: 1, 6: 1, 9: 1}),
        ({"schedule": "linear"}, {0: 1 / 3, 1: 2 / 3, 2: 1, 4: 0.75, 6: 0.5, 9: 0.125}),
        (
            {"schedule": "cosine"},
            {0: 1 / 3, 1: 2 / 3, 2: 1, 4: (2 + math.sqrt(2)) / 4, 6: 0.5, 8: (2 - math.sqrt(2)) / 4},
        ),
        # What the schedule leaves is added to the floor.
        ({"schedule": "linear", "min_lr_ratio": 0.2}, {0: 1 / 3, 2: 1, 6: 0.6, 9: 0.3}),
        ({"schedule": "cosine", "min_lr_ratio": 0.2}, {0: 1 / 3, 2: 1, 6: 0.6}),
        # Without warmup the first step is at the peak; a started warmup step counts as whole.
        ({"schedule": "linear", "warmup": 0.0}, {0: 1, 5: 0.5, 9: 0.1}),
        ({"schedule": "linear", "warmup": 0.11}, {0: 1 / 3, 1: 2 / 3, 2: 1}),
    ],
)
def test_learning_rate(settings: dict[str, Any], expected: dict[int, float]) -> None:
    algorithm = SFT(lr=3e-4, **{"warmup": 0.2, **settings})
    rates = {step: learning_rate(algorithm, step, 10) for step in expected}
    assert rates == pytest.approx({step: 3e-4 * factor for step, factor in expected.items()})
