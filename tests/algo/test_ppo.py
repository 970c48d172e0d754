"""PPO against its formulas, token by token, and through the whole loop."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from psychocounsel.algo.base import Outputs
from psychocounsel.algo.ppo import PPO, gae
from psychocounsel.data.batch import build_batch
from psychocounsel.data.group import Completion, Group, read_groups
from psychocounsel.errors import USER_ERROR
from psychocounsel.export import main as export
from psychocounsel.model.packed import Critic, RewardModel
from psychocounsel.storage.files import read_json
from tests.algo.test_online_dpo import written
from tests.algo.test_policy_gradient import Context, collected, flat, tables
from tests.engine.test_resume import assert_bitwise_equal
from tests.support.harness import ROOT, cli, metrics_of, random_groups, small_lm


@pytest.mark.parametrize(("discount", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.97, 0.0)])
def test_gae_is_the_sum_of_discounted_errors(discount: float, lam: float) -> None:
    rng = np.random.default_rng(0)
    for length in (1, 2, 9):
        rewards, values = rng.normal(size=length), rng.normal(size=length)
        after = np.append(values[1:], 0.0)
        errors = rewards + discount * after - values
        expected = [
            sum((discount * lam) ** step * errors[start + step] for step in range(length - start))
            for start in range(length)
        ]
        np.testing.assert_allclose(gae(rewards, values, discount, lam), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("whiten", [True, False])
def test_what_is_collected(whiten: bool) -> None:
    weights: Any = {"kl_weight": 0.3, "reward_weight": 0.7, "normalise_rewards": False}
    algorithm = PPO(**weights, discount=0.9, gae_lambda=0.8, whiten=whiten)
    groups, ctx = collected(algorithm)
    raw = []
    for number, group in enumerate(groups):
        for place, completion in enumerate(group.completions):
            policy, reference, values = (ctx.tables[name][number][place] for name in ("policy", "reference", "values"))
            rewards = -0.3 * (policy - reference)
            rewards[-1] += 0.7 * completion.reward
            raw.append(gae(rewards, values, 0.9, 0.8))
            np.testing.assert_allclose(completion.returns, raw[-1] + values, rtol=1e-5)
            np.testing.assert_array_equal(completion.values, values)
            np.testing.assert_array_equal(completion.logprobs, policy)
    every = np.concatenate(raw)
    expected = (every - every.mean()) / every.std() if whiten else every
    np.testing.assert_allclose(flat(groups, "advantages").numpy(), expected, rtol=1e-4, atol=1e-5)
    returns, values = flat(groups, "returns").numpy(), flat(groups, "values").numpy()
    assert ctx.notes["explained_variance"] == pytest.approx(1 - np.var(returns - values) / np.var(returns), rel=1e-4)


def test_rewards_are_normalised_clipped_and_weighed() -> None:
    rewards = [np.array([1.0, 2.0]), np.array([9.0])]
    normal = (np.array([1, 2, 9]) - 4) / np.std([1, 2, 9])

    def scaled(**settings: Any) -> np.ndarray:
        return np.concatenate(PPO(**settings).scaled(rewards))

    np.testing.assert_allclose(scaled(), normal)
    np.testing.assert_allclose(scaled(normalise_rewards=False, reward_clip=1.5), [1, 1.5, 1.5])
    np.testing.assert_allclose(scaled(reward_clip=1.0, reward_weight=2.0), 2 * normal.clip(-1, 1))


@pytest.mark.parametrize("rounding", [0.0, 1e-9])
def test_a_round_of_equal_rewards_is_not_rescaled(rounding: float) -> None:
    """Two sessions earn the same in all, but their first turns earned less than their second ones."""
    sessions = [
        Completion(
            np.arange(4, dtype=np.int32),
            trained=np.array([True, False, True, True]),
            turn_rewards=np.array([-0.5, 0.6], np.float32),
            turn_shares=np.array([0.5, 0.5]),
            reward=0.1 + number * rounding,
            logprobs=np.zeros(3, np.float32),
        )
        for number in range(2)
    ]
    zeros = [[np.zeros(3, np.float32)] * 2]
    algorithm = PPO(gae_lambda=1.0, kl_weight=0.0)
    algorithm.collect([Group("", np.arange(3, dtype=np.int32), sessions)], Context({"policy": zeros, "values": zeros}))
    for session in sessions:
        # Each turn has half of the mean that normalising subtracts.
        np.testing.assert_allclose(session.returns, [0, 0.55, 0.55], atol=1e-6)


def test_penalties_are_taken_off_the_reward() -> None:
    repeated = np.array([1, 2, 3, 4, 1, 2, 3, 4, 5], np.int32)  # one of six four-token runs occurred before
    completions = [
        Completion(repeated, reward=2.0, finish_reason="length"),
        Completion(np.arange(5, dtype=np.int32), reward=1.0, finish_reason="stop"),
    ]
    group, ctx = Group("", repeated, completions), Context(tables(0))
    algorithm = PPO(length_penalty=0.01, unfinished_penalty=0.5, repetition_penalty=3.0)
    expected = [2 - 0.09 - 0.5 - 3 / 6, 1 - 0.05]
    assert algorithm.rewards(group, ctx) == pytest.approx(expected)  # type: ignore[arg-type]
    means = {"length_penalty": 0.07, "unfinished_penalty": 0.25, "repetition_penalty": 0.25}
    assert {name: ctx.notes.get(name) for name in means} == pytest.approx(means)
    plain = Context(tables(0))
    assert PPO().rewards(group, plain) == [2.0, 1.0]  # type: ignore[arg-type]
    assert not means.keys() & plain.notes.keys()


def test_losses_token_by_token() -> None:
    algorithm = PPO(clip=0.1, value_clip=0.15)
    groups, _ = collected(algorithm)
    generator = torch.Generator().manual_seed(1)
    old, was, returns, advantages = (flat(groups, name) for name in ("logprobs", "values", "returns", "advantages"))
    logprobs = (old + 0.2 * torch.randn(old.shape, generator=generator)).requires_grad_()
    values = (was + 0.3 * torch.randn(was.shape, generator=generator)).requires_grad_()
    terms = algorithm.loss(Outputs(logprobs=logprobs, values=values), build_batch([groups]))
    policy, critic, outside = torch.zeros(()), torch.zeros(()), 0
    for place in range(len(old)):
        ratio = (logprobs[place] - old[place]).exp()
        bounded = ratio.clamp(0.9, 1.1)
        outside += bool(bounded != ratio)
        policy = policy - torch.min(ratio * advantages[place], bounded * advantages[place])
        near = was[place] + torch.clamp(values[place] - was[place], -0.15, 0.15)
        squares = (values[place] - returns[place]) ** 2, (near - returns[place]) ** 2
        critic = critic + 0.5 * torch.max(*squares)
    for name, expected, inputs in (("loss_policy", policy, logprobs), ("loss_value", critic, values)):
        assert terms[name].sum.item() == pytest.approx(expected.item(), rel=1e-5)
        (mine,), (theirs,) = torch.autograd.grad(terms[name].sum, inputs), torch.autograd.grad(expected, inputs)
        torch.testing.assert_close(mine, theirs)
    assert terms["clip_fraction"].sum.item() == outside > 0
    assert (terms["loss_policy"].engine, terms["loss_value"].engine) == ("policy", "critic")


def test_the_critics_value_at_a_reply_without_its_last_token_is_its_score() -> None:
    lm = small_lm(rewards=True)
    (group, *_) = random_groups(1)
    critic, scorer = Critic(lm, "test"), RewardModel(lm, "test")
    with torch.no_grad():
        batch = build_batch([[group]])
        ((values, *_),) = critic.pieces(critic(batch), batch)
        for place in range(1, len(values)):
            cut = Group("", group.prompt_ids, [Completion(group.completions[0].ids[:place])])
            assert values[place] == pytest.approx(float(scorer(build_batch([[cut]]))[0]), abs=2e-5)


# -- through the loop

BASE = [
    "algo=ppo",
    "data.limit=200",
    "eval.limit=4",
    "max_steps=6",
    "global_batch_size=4",
    "rollout.max_tokens=12",
    "rollout.shard_prompts=2",
    "eval.every=2",
    "checkpoint.every=2",
    "algo.lr=1e-3",
    "cluster.threads=1",
]


def train(run: Path, *more: str, code: int = 0) -> str:
    return cli("train", f"run_dir={run}", *BASE, *more, cwd=ROOT, check_code=code).stderr


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("ppo") / "run"
    train(run)
    return run


def test_the_first_update_of_a_round_has_ratio_one_and_the_second_has_not(unbroken: Path) -> None:
    lines = metrics_of(unbroken)
    for line in lines[1:]:
        is_first = line["step"] % 2 == 1
        assert (abs(line["ratio"] - 1) < 1e-5) == is_first
        assert ("rollout/explained_variance" in line) == is_first
    (first, *_) = read_groups(unbroken / "rounds" / "0000" / "groups.parquet")
    assert all(getattr(first.completions[0], name) is not None for name in ("values", "returns", "advantages"))
    assert sorted(path.name for path in (unbroken / "checkpoints" / "step-000006").iterdir() if path.is_dir()) == [
        "critic",
        "policy",
    ]


def test_of_a_checkpoint_the_policy_is_exported_and_not_the_critic(unbroken: Path, tmp_path: Path) -> None:
    export([str(unbroken), "step=6", f"to={tmp_path / 'six'}"])
    file = unbroken / "checkpoints" / "step-000006" / "policy" / "weights-00000.safetensors"
    state = load_file(file)
    for name, value in load_file(tmp_path / "six" / "model.safetensors").items():
        assert torch.equal(value, state[f"lm.{name}"]), name


@pytest.mark.parametrize(
    ("event", "step"),
    [
        pytest.param("scored", 4, marks=pytest.mark.slow),
        *(pytest.param(*death, marks=pytest.mark.proof) for death in [("pairs_written", 2), ("step_end", 3)]),
        *(pytest.param(*death, marks=pytest.mark.proof) for death in [("sync_done", 4), ("shard_done", 4)]),
    ],
)
def test_killed_anywhere_it_goes_on_and_makes_nothing_twice(
    event: str, step: int, unbroken: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(run, f"+callbacks.kill={{_target_: tests.support.killer.Kill, event: {event}, step: {step}}}", code=137)
    done, unscored = written(run)
    assert done and bool(unscored) == (event in ("shard_done", "scored"))
    train(run)
    again = {file for file, time in done.items() if file.stat().st_mtime_ns != time}
    assert again == unscored, "rewards are added to replies that had none yet, and nothing else is rewritten"
    assert_bitwise_equal(run, unbroken)


@pytest.mark.slow
def test_a_critic_may_begin_as_the_policy_and_must_read_its_tokens(tmp_path: Path, small_model: Path) -> None:
    train(tmp_path / "run", "algo.critic=policy", "reward=tiny", "max_steps=1", f"model.path={small_model}")
    assert read_json(tmp_path / "run" / "summary.json")["status"] == "finished"
    other = tmp_path / "other"
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(small_model)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(other)
    small_lm(vocab_size=len(tokenizer), max_position_embeddings=2048).save_pretrained(other)
    error = train(tmp_path / "wrong", "reward=tiny", f"model.path={other}", code=USER_ERROR)
    assert "algo.critic=reward" in error and "use algo.critic=policy" in error
