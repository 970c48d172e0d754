"""Reward modelling, SimPO and ORPO against TRL's trainers in fp32, as in test_trl_parity.

TRL's ORPO uses the likelihood of prompt and reply, ours only that of the reply (equation 6 of the paper). It is
therefore compared twice: with TRL's own trainer on replies without prompts, where both agree, and on conversations with
a trainer that differs from TRL's only in the labels of its likelihood.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from psychocounsel.algo.base import Algorithm, Outputs
from psychocounsel.algo.orpo import ORPO
from psychocounsel.algo.reward import Reward
from psychocounsel.algo.simpo import SimPO
from psychocounsel.data.batch import build_batch
from psychocounsel.data.group import Completion, Group
from psychocounsel.engine.step import metrics_of
from tests.support.harness import make_stepper
from tests.support.parity import (
    BUDGET,
    OURS,
    THEIRS,
    assert_same_metrics,
    assert_same_training,
    chat,
    groups_of,
    ids_of,
    model,
    rows,
    train_ours,
)
from tests.support.trl_oracle import train_orpo, train_reward, train_simpo

pytestmark = pytest.mark.usefixtures("in_process_training")

Settings = dict[str, Any]
REWARDS = {"accuracy": "accuracies", "margin": "margins", "chosen": "chosen"}
PAIR_METRICS = {f"rewards/{name}": f"rewards/{trl_name}" for name, trl_name in REWARDS.items()}


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def rated_pairs() -> list[Group]:
    """Return pairs with made-up mean ratings; the chosen reply's rating is not always the higher one."""
    rng = np.random.default_rng(3)
    groups = groups_of("pairs")
    for completion in (completion for group in groups for completion in group.completions):
        completion.reward = float(rng.uniform(1, 5))
    return groups


def rating_gap(group: Group) -> float:
    chosen, rejected = (completion.reward for completion in group.completions)
    return chosen - rejected


@pytest.mark.parametrize(
    ("settings", "trl_settings"),
    [
        ({}, {}),
        ({"margin": 0.4}, {}),
        ({"centring": 0.05}, {"center_rewards_coefficient": 0.05}),
        ({"margin": 0.4, "centring": 0.05}, {"center_rewards_coefficient": 0.05}),
    ],
)
def test_reward_equals_trl(settings: Settings, trl_settings: Settings, tmp_path: Path) -> None:
    groups, data = rated_pairs(), rows()
    if "margin" in settings:
        data = [
            {**row, "margin": settings["margin"] * rating_gap(group)} for row, group in zip(data, groups, strict=True)
        ]
    theirs = train_reward(model(rewards=True), chat()[0], data, tmp_path, **THEIRS, **trl_settings)
    for group, row in zip(groups, theirs.data, strict=True):
        assert ids_of(group) == [row["chosen_ids"], row["rejected_ids"]]
        assert (
            chat()[0].pad_token_id not in row["chosen_ids"] + row["rejected_ids"]
        )  # TRL scores the token before the padding
    ours = train_ours(model(rewards=True), Reward(**settings, **OURS), groups)
    assert_same_training(ours, theirs)
    assert_same_metrics(ours, theirs, {"rewards/accuracy": "accuracy", "rewards/margin": "margin"})


@pytest.mark.parametrize(
    ("settings", "trl_settings"),
    [
        ({"gamma_beta_ratio": 0.0}, {"simpo_gamma": 0.0}),
        ({"gamma_beta_ratio": 0.3}, {"simpo_gamma": 0.6}),  # TRL's setting is gamma, not gamma / beta
        ({"label_smoothing": 0.15}, {"simpo_gamma": 1.1, "label_smoothing": 0.15}),
        ({"sft_weight": 0.7}, {"simpo_gamma": 1.1, "cpo_alpha": 0.7}),
    ],
)
def test_simpo_equals_trl(settings: Settings, trl_settings: Settings, tmp_path: Path) -> None:
    groups = groups_of("pairs")
    trl_settings = {"cpo_alpha": 0.0, **trl_settings}
    theirs = train_simpo(model(), chat()[0], rows(), tmp_path, beta=2.0, **THEIRS, **trl_settings)
    for group, row in zip(groups, theirs.data, strict=True):
        assert ids_of(group) == [row["chosen_input_ids"], row["rejected_input_ids"]]
        assert row["chosen_labels"].count(-100) == row["rejected_labels"].count(-100) == len(group.prompt_ids)
    ours = train_ours(model(), SimPO(beta=2.0, **settings, **OURS), groups)
    assert_same_training(ours, theirs)
    assert_same_metrics(ours, theirs, PAIR_METRICS)


def without_prompts() -> tuple[list[Settings], list[Group]]:
    """Return pairs of bare texts, as TRL's rows and as our groups; the prompt is the first token, which no model predicts."""
    tokenizer = chat()[0]
    start = np.array([tokenizer.bos_token_id], np.int32)

    def completion(text: str) -> Completion:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return Completion(np.array([*ids, tokenizer.eos_token_id], np.int32))

    def text(messages: list[Settings]) -> str:
        return " ".join(message["content"] for message in messages)

    data = [
        {"prompt": "", "chosen": text([*row["prompt"], *row["chosen"]]), "rejected": text(row["rejected"])}
        for row in rows()
    ]
    return data, [Group("", start, [completion(row["chosen"]), completion(row["rejected"])]) for row in data]


@pytest.mark.parametrize("beta", [0.25, 4.0])
@pytest.mark.parametrize("prompts", [True, False])
def test_orpo_equals_trl(prompts: bool, beta: float, tmp_path: Path) -> None:
    data, groups = (rows(), groups_of("pairs")) if prompts else without_prompts()
    theirs = train_orpo(model(), chat()[0], data, tmp_path, untouched=not prompts, beta=beta, **THEIRS)
    for group, row in zip(groups, theirs.data, strict=True):
        assert ids_of(group) == [row["chosen_input_ids"], row["rejected_input_ids"]]
    ours = train_ours(model(), ORPO(beta=beta, **OURS), groups)
    assert_same_training(ours, theirs)
    assert_same_metrics(ours, theirs, {**PAIR_METRICS, "loss_sft": "nll_loss"})


@pytest.mark.parametrize("settings", [{}, {"margin": 0.4}, {"centring": 0.5}])
def test_first_loss_of_a_reward_head_of_zeros(settings: Settings) -> None:
    lm, groups = model(rewards=True), rated_pairs()
    torch.nn.init.zeros_(lm.score.weight)
    metrics = metrics_of(make_stepper(lm, Reward(**settings), BUDGET).accumulate(groups, train=True)[0])
    gaps = [settings.get("margin", 0) * rating_gap(group) for group in groups]
    assert metrics["loss"] == pytest.approx(sum(map(softplus, gaps)) / len(gaps), rel=1e-6)  # log 2 without a margin
    assert metrics["rewards/margin"] == 0
    assert metrics["rewards/accuracy"] == 0.5
    assert lm.score.weight.grad.norm() > 0


@pytest.mark.parametrize(
    ("algorithm", "preference", "likelihood"),
    [
        (SimPO(beta=2.0, gamma_beta_ratio=0.3), softplus(0.6), 0),
        (SimPO(beta=2.0, gamma_beta_ratio=0.3, sft_weight=0.7), softplus(0.6), 0.7),
        (SimPO(beta=2.0, gamma_beta_ratio=0.3, label_smoothing=0.1), 0.9 * softplus(0.6) + 0.1 * softplus(-0.6), 0),
        (ORPO(beta=0.3), 0.3 * math.log(2), 1),
    ],
)
def test_first_loss_of_a_uniform_policy(algorithm: Algorithm, preference: float, likelihood: float) -> None:
    """All tokens are equally likely; `likelihood` is the weight of the log of the vocabulary's size."""
    lm = model()
    torch.nn.init.zeros_(lm.lm_head.weight)
    loss = metrics_of(make_stepper(lm, algorithm, BUDGET).accumulate(groups_of("pairs"), train=True)[0])["loss"]
    assert loss == pytest.approx(preference + likelihood * math.log(len(chat()[0])), rel=1e-6)


def test_orpo_of_likely_replies() -> None:
    """Replies above are so unlikely that odds nearly equal probabilities; a certain reply has infinite odds."""
    ids = np.arange(3, dtype=np.int32)
    batch = build_batch([[Group("", ids, [Completion(ids[:2]), Completion(ids[:1])])]])

    def losses(logprobs: torch.Tensor) -> dict[str, torch.Tensor]:
        terms = ORPO(beta=0.3).loss(Outputs(logprobs=logprobs), batch)
        return {name: term.weight * term.sum for name, term in terms.items() if term.weight}

    mean = math.log(0.8)  # the odds are 4 to 1 and 1 to 1
    got = losses(torch.tensor([mean + 0.1, mean - 0.1, math.log(0.5)]))
    assert got == pytest.approx({"loss_preference": 0.3 * math.log(1 + 1 / 4), "loss_sft": -2 * mean}, rel=1e-6)
    certain = torch.tensor([0.0, 0.0, math.log(0.5)], requires_grad=True)
    loss = sum(losses(certain).values())
    loss.backward()
    assert 0 <= loss.item() < 1e-5
    assert certain.grad.isfinite().all()
