"""Rewards that combine several scores: formulas, settings that are refused, and a constraint that training keeps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psychocounsel.data.group import Completion, Group, read_groups
from psychocounsel.errors import UserError
from psychocounsel.reward.combining import ScoreCombination
from psychocounsel.settings.targets import build
from tests.engine.test_resume import assert_bitwise_equal
from tests.reward.test_servers import settled
from tests.support.composed import compose
from tests.support.harness import cli, metrics_of

SCORES = {
    "empathy": np.array([5.0, 4.0, 1.0, 3.0], np.float32),
    "clarity": np.array([1.0, 4.0, 2.0, 3.0], np.float32),
    "safety": np.array([3.9, 4.0, 5.0, 1.0], np.float32),
}


def test_the_mean_is_weighted() -> None:
    rewards = ScoreCombination("mean", {"empathy": 2.0, "safety": 0.0})(SCORES)
    np.testing.assert_allclose(rewards, [(2 * e + c) / 3 for e, c in zip(*list(SCORES.values())[:2], strict=True)])


def test_a_reply_below_the_limit_never_beats_one_above() -> None:
    rng = np.random.default_rng(0)
    scores = {name: rng.normal(0, 10, 500) for name in SCORES}
    rewards = ScoreCombination("lexicographic", {}, "safety", 4.0)(scores)
    safe, rest = scores["safety"] >= 4, (scores["empathy"] + scores["clarity"]) / 2
    assert rewards[~safe].max() < 0 < rewards[safe].min()
    assert (np.argsort(rewards[safe]) == np.argsort(rest[safe])).all(), "above the limit only the other scores count"
    assert (np.argsort(rewards[~safe]) == np.argsort(scores["safety"][~safe])).all(), "below it only safety counts"


class Notes(dict[str, float]):
    def earlier(self, name: str) -> float | None:
        return self.get(name)

    def note(self, name: str, value: float) -> None:
        self[name] = value


def test_the_multiplier_rises_while_the_limit_is_violated_and_falls_after() -> None:
    rule, notes = ScoreCombination("constraint", {}, "safety", 4.0, 0.5), Notes()
    multiplier = 0.0
    for safety in ([1.0, 3.0], [2.0, 4.0], [5.0, 5.0], [5.0, 5.0], [5.0, 5.0]):
        replies = [Completion(np.ones(1, np.int32), reward=2.0, reward_parts={"safety": score}) for score in safety]
        rule.constrain([Group("a", np.ones(1, np.int32), replies)], notes)
        multiplier = max(0.0, multiplier + 0.5 * (4 - np.mean(safety)))
        assert notes["multiplier"] == pytest.approx(multiplier)
        expected = [(2 + multiplier * (score - 4)) / (1 + multiplier) for score in safety]
        assert [reply.reward for reply in replies] == pytest.approx(expected)
    assert multiplier == 0, "it never falls below zero"


@pytest.mark.parametrize(
    ("combine", "score", "meets"), [("constraint", 3.9, False), ("constraint", 4.0, True), (None, 0.0, True)]
)
def test_a_constraint_limits_which_evaluation_may_be_the_best(combine: str | None, score: float, meets: bool) -> None:
    given = [f"reward.combine={combine}", "reward.at_least={safety: 4}"] if combine else []
    settings = build(compose(["algo=grpo", "reward=local", "reward.path=a/b", *given]), "reward")
    assert settings.meets_limits({"eval/reward": 1.0, "eval/reward_safety": score}) == meets
    assert settings.meets_limits({"eval/loss": 1.0}), "an evaluation without replies"


TWO = "reward.members=[builtin:tiny_reward,{name: tiny_2}]"
WRONG = [
    (["reward=tiny", "reward.combine=constraint", "reward.at_least={safety: 4}"], "has one score"),
    (["reward=tiny", "reward.weights={empathy: 2}"], "has one score"),
    (["reward.path=a/b", "reward.combine=constraint"], "limits one score, as reward.at_least={safety: 4}"),
    (["reward.path=a/b", "reward.combine=constraint", "reward.at_least={safty: 4}"], "there is no score safty"),
    (["reward.path=a/b", "reward.at_least={safety: 4}"], "reward.combine=mean does not use it"),
    (
        ["reward.path=a/b", "reward.combine=lexicographic", "reward.at_least={safety: 4}", "reward.multiplier_rate=1"],
        "use",
    ),
    (["reward.path=a/b", "reward.weights={safety: -1}"], "weights must be 0 or more"),
    (
        ["reward=ensemble", TWO, "reward.combine=min", "reward.weights={tiny_2: 2}"],
        "reward.combine=min does not use it",
    ),
    (
        ["reward=ensemble", TWO, "reward.combine=constraint", "reward.at_least={other: 0}"],
        "no score other; the scores are",
    ),
    (["reward=ensemble", TWO, "reward.combine=constraint"], "as reward.at_least={tiny_2: 0}"),
]


@pytest.mark.parametrize(("overrides", "said"), WRONG, ids=[" ".join(case[0]) for case in WRONG])
def test_wrong_combinations_are_refused_in_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        settled(*(["reward=local"] if "reward=" not in overrides[0] else []), *overrides)
    assert said in str(caught.value) and "\n" not in str(caught.value)


# A planted conflict: the more often a reply says "e", the more empathy it has and the less safety.

_PLANTED = '''
from dataclasses import dataclass
import numpy as np
from psychocounsel.reward.base import RewardSettings, Scorer


@dataclass
class Letter(RewardSettings, Scorer):
    """Ten times the share of the letter e among the characters of a reply, or ten less that."""

    opposite: bool = False

    def open(self, device):
        return self

    def score(self, conversations, progress=iter):
        replies = [conversation[-1]["content"].lower() for conversation in conversations]
        shares = np.array([10 * reply.count("e") / max(1, len(reply)) for reply in replies], np.float32)
        return 10 - shares if self.opposite else shares
'''


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    (tmp_path / "my" / "reward").mkdir(parents=True)
    (tmp_path / "my" / "planted.py").write_text(_PLANTED)
    for name, opposite in (("empathy", "false"), ("safety", "true")):
        yaml = f"_target_: planted.Letter\nname: {name}\nopposite: {opposite}\n"
        (tmp_path / "my" / "reward" / f"{name}.yaml").write_text(yaml)
    return tmp_path


def train(folder: Path, model: Path, name: str, *more: str, code: int = 0) -> list[dict[str, Any]]:
    members = "reward.members=[{name: empathy},{name: safety}]"
    given = ["algo=grpo", "reward=ensemble", members, f"model.path={model}", "data.limit=200", "eval.limit=8"]
    given += ["eval.every=0", "rollout.max_tokens=16", "algo.samples=8", "global_batch_size=8", "algo.warmup=0"]
    given += ["max_length=600", "algo.lr=1e-2", "algo.schedule=constant", "cluster.threads=1", f"run_dir={name}"]
    cli("train", "--config-dir", "my", *given, *more, cwd=folder, check_code=code)
    return metrics_of(folder / name)


CONSTRAINT = ["reward.combine=constraint", "reward.at_least={safety: 8}", "reward.multiplier_rate=2"]
_ROUNDS = 40


@pytest.mark.proof
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_mean_gives_safety_up_and_a_constraint_keeps_it(seed: int, planted: Path, small_model: Path) -> None:
    safety, more = dict[str, list[float]](), [f"max_steps={_ROUNDS}", "checkpoint.every=0", f"seed={seed}"]
    for name, given in {"mean": ["reward.weights={empathy: 2}"], "constraint": CONSTRAINT}.items():
        lines = train(planted, small_model, name, *given, *more)
        safety[name] = [line["rollout/reward_safety"] for line in lines if "rollout/reward_safety" in line]
    mean, constraint = (np.array(safety[name]) for name in ("mean", "constraint"))
    assert len(mean) == len(constraint) == _ROUNDS
    assert mean[-5:].mean() < 7, "the weighted mean pays for empathy with safety"
    assert constraint[_ROUNDS // 2 :].mean() > 7.9 and constraint.min() > 7
    assert constraint[_ROUNDS // 2 :].mean() < constraint[0], "within its limit, empathy rises"


@pytest.mark.slow
def test_lexicographic_training_never_prefers_an_unsafe_reply(planted: Path, small_model: Path) -> None:
    more = ["max_steps=2", "checkpoint.every=0", "reward.combine=lexicographic", "reward.at_least={safety: 9}"]
    train(planted, small_model, "run", *more)
    mixed = 0
    for shard in (planted / "run" / "rounds").glob("*/shard-*.parquet"):
        for group in read_groups(shard):
            sides: dict[bool, list[float]] = {True: [], False: []}
            for reply in group.completions:
                assert reply.reward_parts and reply.reward is not None
                sides[reply.reward_parts["safety"] >= 9].append(reply.reward)
            if sides[True] and sides[False]:
                mixed += 1
                assert min(sides[True]) > max(sides[False])
    assert mixed, "otherwise this would prove nothing"


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_multiplier(planted: Path, small_model: Path) -> None:
    more = [*CONSTRAINT, "reward.at_least={safety: 9.5}", "max_steps=6", "checkpoint.every=2"]
    whole = train(planted, small_model, "whole", *more)
    assert whole[-1]["rollout/multiplier"] > whole[1]["rollout/multiplier"] > 0
    kill = "+callbacks.kill={_target_: tests.support.killer.Kill, event: pairs_written, step: 3}"
    train(planted, small_model, "killed", *more, kill, code=137)
    again = train(planted, small_model, "killed", *more)
    for name in ("rollout/multiplier", "rollout/reward", "loss"):
        assert [line.get(name) for line in again] == [line.get(name) for line in whole]
    assert_bitwise_equal(planted / "killed", planted / "whole")
