"""SFT and DPO against TRL's trainers in fp32: the same pairs give the same losses, gradients and parameters.

Features that TRL lacks are compared with formulas over plain forward passes, or with values computed by hand.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from psychocounsel.algo.dpo import DPO
from psychocounsel.algo.sft import SFT
from psychocounsel.data.group import Group
from psychocounsel.engine.schedule import learning_rate
from psychocounsel.engine.step import metrics_of
from tests.support.harness import make_stepper
from tests.support.parity import (
    BATCH,
    BUDGET,
    OURS,
    THEIRS,
    TOLERANCE,
    Models,
    assert_same_metrics,
    assert_same_training,
    chat,
    groups_of,
    largest_difference,
    model,
    plain_ratios,
    reference_of,
    rows,
    split_and_pack,
    train_ours,
)
from tests.support.trl_oracle import gradients_of, train_dpo, train_sft

pytestmark = pytest.mark.usefixtures("in_process_training")

BETA = 0.5  # with these models' margins, some pairs lie on each side of the hinge

# Our settings, and TRL's for the same loss.
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
REWARDS = {
    "rewards/accuracy": "rewards/accuracies",
    "rewards/margin": "rewards/margins",
    "rewards/chosen": "rewards/chosen",
}


def pairs_with_reference(reference: Models) -> list[Group]:
    return DPO().collect(groups_of("pairs"), reference)


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
    groups = pairs_with_reference(
        reference_of(model(seed=1))
    )  # a model other than the policy, because all margins would start at zero
    theirs = train_dpo(model(), model(seed=1), chat()[0], rows(), tmp_path, beta=BETA, **THEIRS, **trl_settings)
    for group, row in zip(groups, theirs.data, strict=True):
        assert group.prompt_ids.tolist() == row["prompt_ids"]
        assert [c.ids.tolist() for c in group.completions] == [row["chosen_ids"], row["rejected_ids"]]
    ours = train_ours(model(), DPO(beta=BETA, **settings, **OURS), groups)
    assert_same_training(ours, theirs)
    if loss not in ("ipo", "length_normalised"):  # for these our rewards are per token, like the loss, unlike TRL's
        assert_same_metrics(ours, theirs, REWARDS)


def plain_conservative_loss(lm: Any, reference: Any, group: Group, smoothing: float, per_token: bool) -> torch.Tensor:
    """Return the conservative DPO loss of one pair, whose label is wrong with probability `smoothing`."""
    ratios = []
    for completion in group.completions:
        ratio = plain_ratios(lm, reference, group.prompt_ids, completion.ids)
        ratios.append(ratio.mean() if per_token else ratio.sum())
    scaled = BETA * (ratios[0] - ratios[1])
    return -(1 - smoothing) * logsigmoid(scaled) - smoothing * logsigmoid(-scaled)


@pytest.mark.parametrize("per_token", [False, True])
def test_conservative_dpo_equals_its_formula(per_token: bool) -> None:
    lm, reference, plain = model(), model(seed=1), model()
    groups = pairs_with_reference(reference_of(reference))[:BATCH]
    algorithm = DPO(beta=BETA, label_smoothing=0.15, length_normalised=per_token, **OURS)
    stepper = make_stepper(lm, algorithm, BUDGET)
    split_and_pack(stepper, groups)
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
    groups = pairs_with_reference(Models(reference=stepper))
    metrics = metrics_of(stepper.accumulate(groups, train=True)[0])
    assert metrics["loss"] == pytest.approx(expected, rel=1e-6)
    assert metrics["rewards/margin"] == 0
    assert metrics["rewards/accuracy"] == 0.5
    assert stepper.main.module.lm.get_input_embeddings().weight.grad.norm() > 0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # Two of 10 steps warm up: 1/3, 2/3, then the peak; step 6 is halfway from step 2 to 10.
        ({"schedule": "constant"}, {0: 1 / 3, 1: 2 / 3, 2: 1, 6: 1, 9: 1}),
        ({"schedule": "linear"}, {0: 1 / 3, 1: 2 / 3, 2: 1, 4: 0.75, 6: 0.5, 9: 0.125}),
        (
            {"schedule": "cosine"},
            {0: 1 / 3, 1: 2 / 3, 2: 1, 4: (2 + math.sqrt(2)) / 4, 6: 0.5, 8: (2 - math.sqrt(2)) / 4},
        ),
        # The schedule's share is added to the floor.
        ({"schedule": "linear", "min_lr_ratio": 0.2}, {0: 1 / 3, 2: 1, 6: 0.6, 9: 0.3}),
        ({"schedule": "cosine", "min_lr_ratio": 0.2}, {0: 1 / 3, 2: 1, 6: 0.6}),
        # Without warmup the first step is at the peak; a partial warmup step counts as a whole one.
        ({"schedule": "linear", "warmup": 0.0}, {0: 1, 5: 0.5, 9: 0.1}),
        ({"schedule": "linear", "warmup": 0.11}, {0: 1 / 3, 1: 2 / 3, 2: 1}),
    ],
)
def test_learning_rate(settings: dict[str, Any], expected: dict[int, float]) -> None:
    algorithm = SFT(lr=3e-4, **{"warmup": 0.2, **settings})
    rates = {step: learning_rate(algorithm, step, 10) for step in expected}
    assert rates == pytest.approx({step: 3e-4 * factor for step, factor in expected.items()})
