"""The shipped models are small files that differ only in their weights, and each training improves them measurably."""

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from psychocounsel.data.dataset import build_dataset
from psychocounsel.data.group import Group
from psychocounsel.data.selection import load_split
from psychocounsel.metrics.rewards import win_rate
from psychocounsel.model.build_tiny import ALGORITHMS
from psychocounsel.model.load import load_causal_lm
from psychocounsel.model.packed import Policy
from psychocounsel.model.tokenizer import load_chat_format
from psychocounsel.reward.local_model import LocalScorer
from psychocounsel.rollout.base import Sampling
from psychocounsel.rollout.hf import HFRollout
from tests.support.composed import check, compose
from tests.support.harness import TINY

SHIPPED = TINY.parent
REWARDS = ("builtin:tiny_reward", "builtin:tiny_reward_2")


def test_shipped_are_the_models_of_the_recipe() -> None:
    assert {folder.name for folder in SHIPPED.iterdir()} == set(ALGORITHMS)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_shipped_model_is_small_and_shares_the_tokenizer(name: str) -> None:
    folder = SHIPPED / name
    assert sum(file.stat().st_size for file in folder.iterdir()) < 8e6
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (folder / file).read_bytes() == (TINY / file).read_bytes()
    weights = load_file(folder / "model.safetensors")
    assert {each.dtype for each in weights.values()} == {torch.bfloat16}
    assert all(bool(each.isfinite().all()) for each in weights.values())
    assert not [word for word in ("/tmp", "/home", "/work") if word in (folder / "config.json").read_text()]


def test_the_two_policies_and_the_two_reward_models_differ() -> None:
    for one, other in (("tiny", "tiny_dpo"), ("tiny_reward", "tiny_reward_2")):
        first, second = (load_file(SHIPPED / name / "model.safetensors") for name in (one, other))
        assert first.keys() == second.keys()
        assert sum(not torch.equal(each, second[name]) for name, each in first.items()) > 0.5 * len(
            first
        )  # norms hardly change


@pytest.mark.parametrize(
    "overrides",
    [
        ["algo=dpo", "model=tiny_dpo"],
        ["algo=grpo", "model=tiny", "reward=tiny_2"],
        ["algo=dpo", "model.path=builtin:tiny_dpo"],
    ],
)
def test_they_are_found_by_name_with_the_settings_of_small_models(overrides: list[str]) -> None:
    config = check(compose(overrides))
    assert config.model.license == "apache-2.0" and config.algo.lr >= 1e-5
    assert config.get("reward", {}).get("path", REWARDS[1]) == REWARDS[1]


@pytest.mark.proof
def test_both_reward_models_prefer_the_replies_of_the_policy_after_dpo() -> None:
    """The comparison uses held-out clients, which no shipped model has seen."""
    mine, theirs = (written(f"builtin:{name}") for name in ("tiny_dpo", "tiny"))
    for path in REWARDS:
        scorer = LocalScorer.load(path)
        sides = [scored(scorer, groups) for groups in (mine, theirs)]
        found = win_rate(*sides, [group.id for group in mine])
        print(path, found)
        assert found["win_rate_low"] > 0.5


def written(path: str) -> list[Group]:
    """Return two replies of a policy to each held-out prompt of the sample, of at most 96 tokens."""
    config: Any = check(compose(["algo=online_dpo", "reward=tiny", f"model.path={path}"]))
    tokenizer, chat = load_chat_format(config.model)
    prompts = build_dataset(config, chat, "prompts", lambda _: None).held_out
    policy = Policy(load_causal_lm(config.model, torch.float32, None), path)
    rollout = HFRollout(policy, tokenizer, [chat.end_token()], config.rollout.batch_size)
    return rollout.generate(prompts, Sampling(2, 1.0, seed=5, max_tokens=96, max_length=config.max_length))


def scored(scorer: LocalScorer, groups: list[Group]) -> list[list[float]]:
    told = [
        [*(group.messages or []), {"role": "assistant", "content": reply.text}]
        for group in groups
        for reply in group.completions
    ]
    return np.asarray(scorer.score(told)).reshape(len(groups), -1).tolist()


@pytest.mark.slow
def test_the_second_reward_model_is_better_than_chance_on_held_out_clients() -> None:
    config: Any = check(compose(["algo=reward", "data=sample"]))
    _, held_out = load_split(config.data, lambda _: None)
    turns = [[*pair.prompt, {"role": "assistant", "content": reply}] for pair in held_out for reply in pair.replies]
    scores = np.asarray(LocalScorer.load(REWARDS[1]).score(turns)).reshape(-1, 2)
    wins = [[float(chosen > rejected)] for chosen, rejected in scores]
    prompts = [pair.prompt[-1]["content"] for pair in held_out]
    found = win_rate(wins, [[0.5]] * len(wins), prompts)
    print(found)
    assert len(wins) == 174 and found["win_rate_low"] > 0.5
