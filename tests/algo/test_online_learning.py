"""A user's programmed reward is learned; without a reward the policy does not drift."""

from pathlib import Path

import pytest

from tests.support.harness import cli, metrics_of

_REWARD = '''
from dataclasses import dataclass
import numpy as np
from psychocounsel.reward.base import RewardSettings, Scorer


@dataclass
class Letter(RewardSettings, Scorer):
    """Ten times the share of a letter among all characters of a reply."""

    letter: str = "e"

    def open(self, device):
        return self

    def score(self, conversations, progress=iter):
        replies = [conversation[-1]["content"].lower() for conversation in conversations]
        return np.array([10 * reply.count(self.letter) / max(1, len(reply)) for reply in replies], np.float32)
'''


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "my" / "reward").mkdir(parents=True)
    (tmp_path / "my" / "reward" / "letter.yaml").write_text("_target_: my_reward.Letter\nname: letter\nletter: e\n")
    (tmp_path / "my" / "my_reward.py").write_text(_REWARD)
    return tmp_path


def rewards(mine: Path, model: Path, algo: str, seed: int, *more: str) -> list[dict]:
    # 32 held-out speeches: before training, the mean reward of 8 speeches differs by 0.4 between seeds, that of 32 by 0.2
    settings = ["reward=letter", "data.limit=200", "eval.limit=32", "eval.every=0", "cluster.threads=1"]
    settings += ["rollout.max_tokens=16", "algo.samples=8", "global_batch_size=8", "algo.warmup=0", "max_length=600"]
    name, (algo, _, kind) = f"{algo}-{seed}", algo.partition(" ")
    critic = [f"algo.critic={kind or 'policy'}", "algo.critic_lr=3e-3", "algo.passes=1"] if algo == "ppo" else []
    given = [f"algo={algo}", f"seed={seed}", f"model.path={model}", f"run_dir={name}", *settings, *critic, *more]
    cli("train", "--config-dir", "my", *given, cwd=mine)
    return metrics_of(mine / name)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.proof) for seed in (2, 3))])
@pytest.mark.parametrize(
    "algo",
    [
        "online_dpo",
        "ppo",
        *(pytest.param(each, marks=pytest.mark.proof) for each in ("grpo", "rloo", "ppo shared", "online_simpo")),
    ],
)
def test_a_reward_is_learned(algo: str, seed: int, mine: Path, small_model: Path) -> None:
    steps = 40 if algo == "ppo shared" else 25  # values also move the trunk, so the policy needs more steps
    more = [f"max_steps={steps}", "algo.lr=1e-2", "algo.schedule=constant", "checkpoint.every=0"]
    lines = rewards(mine, small_model, algo, seed, *more)
    first, last = lines[1]["rollout/reward"], lines[-1]["rollout/reward"]
    assert last > first + 0.8, f"from {first:.3f} to {last:.3f}"
    assert lines[-1]["eval/reward"] > lines[0]["eval/reward"] + 0.8
    assert algo == "online_simpo" or lines[-1]["eval/kl"] > 1, "it has no reference to measure a divergence from"
    assert lines[-1]["eval/win_rate"] > 0.7


@pytest.mark.slow
@pytest.mark.parametrize(
    "algo", [pytest.param("rloo", marks=pytest.mark.proof), pytest.param("grpo", marks=pytest.mark.proof), "ppo"]
)
def test_without_reward_the_policy_does_not_drift(algo: str, mine: Path, small_model: Path) -> None:
    more = ["algo.reward_weight=0", "max_steps=4", "algo.lr=3e-3", "checkpoint.every=0", "algo.passes=2"]
    lines = rewards(mine, small_model, algo, 1, *more)
    assert abs(lines[-1]["eval/kl"]) < 1e-4
    assert lines[-1]["eval/reward"] == pytest.approx(lines[0]["eval/reward"], abs=1e-6)
