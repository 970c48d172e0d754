"""What the rewards of a session's turns become in PPO, GRPO and RLOO, against plain loops over sessions and turns."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from psychocounsel.algo.base import Outputs
from psychocounsel.algo.grpo import GRPO
from psychocounsel.algo.online_dpo import OnlineDPO
from psychocounsel.algo.ppo import PPO
from psychocounsel.algo.rloo import RLOO
from psychocounsel.counsel.pairs import reward_pairs, rewards_differ
from psychocounsel.data.batch import build_batch
from psychocounsel.data.group import SESSION_ENDS, Completion, Group, read_groups, write_groups
from psychocounsel.data.messages import Message
from psychocounsel.engine.rounds.scoring import Scoring
from psychocounsel.metrics.replies import reply_metrics
from psychocounsel.reward.base import RoundNotes, Scorer
from psychocounsel.reward.combining import ScoreCombination
from tests.algo.test_policy_gradient import Context
from tests.reward.test_combining import Notes
from tests.support.harness import world

Turns = Sequence[Sequence[float]]  # the rewards of the turns of each session

ROUNDS: dict[str, Turns] = {
    "ratings": [[1, 3], [3, 1], [2, 4, 2]],
    "word checks": [[0, 1], [1, 1, 0], [0, 0], [1]],
    "shares of criteria": [[0.5, 0, 0.25], [1, 0.5], [0, 0.75]],
    "ratings less faults": [[4, -1, 0], [0, 3.5], [2, 2, 2], [0, 0]],
}
LENGTHS = (2, 3, 1, 2)  # tokens of the turns of a session, in order


class Spelled(Scorer):
    """Scores a reply by the number that it spells plus `constant`; its parts are spelled after it."""

    def __init__(self, constant: float = 0.0, rule: ScoreCombination | None = None) -> None:
        self.constant, self.rule = constant, rule

    def score(self, conversations: Any, progress: Any = iter) -> np.ndarray:
        numbers = np.array([[*map(float, said[-1]["content"].split())] for said in conversations])
        self.parts = {"safety": numbers[:, 1]} if numbers.shape[1] > 1 else {}
        return numbers[:, 0] + self.constant

    def finish_round(self, groups: Sequence[Group], notes: RoundNotes) -> None:
        if self.rule:
            self.rule.constrain(groups, notes)


def session(words: Sequence[str]) -> Completion:
    """Return a session whose turns of the policy say `words`; a token of the client stands between two turns."""
    said, mask = list[Message](), list[bool]()
    for place, text in enumerate(words):
        said += [{"role": "user", "content": "Go on."}] * bool(place) + [{"role": "assistant", "content": text}]
        mask += [False] * bool(place) + [True] * LENGTHS[place]
    trained, tokens = np.array(mask), sum(LENGTHS[: len(words)])
    return Completion(
        np.arange(len(mask), dtype=np.int32), trained=trained, session=said, logprobs=np.zeros(tokens, np.float32)
    )


def scored(words: Sequence[Sequence[str]], over: str, scorer: Scorer, file: Path, notes: Any = None) -> list[Group]:
    """Return the scored sessions of a round, one for each prompt, as they come from their file."""
    groups = [
        Group(str(number), np.array([1], np.int32), [session(of)], messages=[{"role": "user", "content": "Hello."}])
        for number, of in enumerate(words)
    ]
    scoring = Scoring(scorer, world(), False, None, over_turns=over)
    write_groups(file, [*scoring(groups, lambda: None)])
    read = read_groups(file)
    scoring.finish_round(read, notes or Notes())
    return read


def earned(turns: Sequence[float], over: str) -> dict[int, float]:
    """Return the turns that a constant would be added to, with the part of the session's reward that each earned."""
    if over == "mean":
        return {place: reward / len(turns) for place, reward in enumerate(turns)}
    place = len(turns) - 1 if over == "last" else [*turns].index(min(turns))
    return {place: turns[place]}


def expected_returns(rewards: Turns, over: str) -> list[float]:
    """Return the undiscounted return of every token, from normalised rewards, session by session."""
    parts = [earned(turns, over) for turns in rewards]
    totals = [sum(of_turns.values()) for of_turns in parts]
    mean, returns = sum(totals) / len(totals), list[float]()
    spread = (sum((total - mean) ** 2 for total in totals) / len(totals)) ** 0.5
    for turns, of_turns in zip(rewards, parts, strict=True):
        normal = {place: (part - mean / len(of_turns)) / spread for place, part in of_turns.items()}
        for place in range(len(turns)):
            coming = sum(part for later, part in normal.items() if later >= place)
            returns += [coming] * LENGTHS[place]
    return returns


@pytest.mark.parametrize("over", ["mean", "min", "last"])
@pytest.mark.parametrize("name", ROUNDS)
@pytest.mark.parametrize("constant", [0.0, -1.0, -2.0, 0.5, 7.0])
def test_a_constant_in_the_rewards_of_all_turns_changes_nothing_in_ppo(
    name: str, over: str, constant: float, tmp_path: Path
) -> None:
    rewards = ROUNDS[name]
    words = [[str(reward) for reward in turns] for turns in rewards]
    groups = scored(words, over, Spelled(constant), tmp_path / "shard.parquet")
    replies = [group.completions[0] for group in groups]
    zeros = [[np.zeros(reply.trained_tokens, np.float32)] for reply in replies]
    PPO(kl_weight=0.0, gae_lambda=1.0).collect(groups, Context({"policy": zeros, "values": zeros}))
    expected = np.array(expected_returns(rewards, over))
    np.testing.assert_allclose(np.concatenate([reply.returns for reply in replies]), expected, atol=2e-5)
    whitened = (expected - expected.mean()) / expected.std()
    np.testing.assert_allclose(np.concatenate([reply.advantages for reply in replies]), whitened, atol=5e-5)
    if (name, over) == ("ratings", "mean"):
        assert replies[0].returns is not None and replies[0].returns[-1] == pytest.approx(1.2374, abs=1e-4)


# Each session's turns as (reward, safety)
SCORED = [[(1.0, 5.0), (3.0, 1.0)], [(2.0, 4.0), (0.0, 4.5), (2.0, 2.0)], [(4.0, 0.0)]]


@pytest.mark.parametrize("over", ["mean", "min", "last"])
def test_under_a_constraint_each_turn_has_its_own_credit(over: str, tmp_path: Path) -> None:
    limit, rate, before = 4.0, 0.5, 0.25
    notes = Notes({"multiplier": before})
    words = [[f"{reward} {safety}" for reward, safety in turns] for turns in SCORED]
    rule = ScoreCombination("constraint", {}, "safety", limit, rate)
    groups = scored(words, over, Spelled(rule=rule), tmp_path / "shard.parquet", notes)
    means = []
    for turns in SCORED:  # over the scored turns of each session
        safeties = [safety for _, safety in turns][-1 if over == "last" else 0 :]
        means.append(sum(safeties) / len(safeties))
    multiplier = max(0.0, before + rate * (limit - sum(means) / len(means)))
    assert notes["multiplier"] == pytest.approx(multiplier)
    for turns, group in zip(SCORED, groups, strict=True):
        lagrangians = [(reward + multiplier * (safety - limit)) / (1 + multiplier) for reward, safety in turns]
        parts = earned(lagrangians, over)
        (reply,) = group.completions
        assert reply.reward == pytest.approx(sum(parts.values())) and reply.turn_rewards is not None
        expected = [parts.get(place, 0.0) for place in range(len(turns))]
        np.testing.assert_allclose(reply.turn_rewards, expected, rtol=1e-5, atol=1e-6)


# Rewards that differ by rounding alone

EQUAL = [
    ([0.3, 0.3, 0.3], False),
    ([0.3, 0.3 + 1e-7, 0.3 - 1e-7], False),
    ([0.0, 1e-7], False),
    ([812.0, 812.0001], False),
    ([0.3, 0.301], True),
    ([0.0, 1.0, 1.0, 1.0], True),
    ([3.0, 3.0 + 1 / 7], True),
]


@pytest.mark.parametrize(("rewards", "differ"), EQUAL)
def test_rewards_that_differ_by_rounding_alone_teach_nothing(rewards: list[float], differ: bool) -> None:
    replies = [
        Completion(np.array([1, 2 + n], np.int32), reward=reward, logprobs=np.zeros(2, np.float32))
        for n, reward in enumerate(rewards)
    ]
    group, ctx = (
        Group("a", np.array([1], np.int32), replies),
        Context({"policy": [[np.zeros(2, np.float32)] * len(rewards)]}),
    )
    assert rewards_differ(rewards) == differ
    assert GRPO(resample=1).is_useful(group, ctx) == differ
    for algorithm in (GRPO(kl_weight=0.0), RLOO(kl_weight=0.0), RLOO(kl_weight=0.0, normalise_rewards=False)):
        algorithm.collect([group], ctx)
        advantages = np.concatenate([reply.advantages for reply in replies])
        assert bool(np.abs(advantages).max() > 1e-9) == differ
    made = reward_pairs(rewards, [str(n) for n in range(len(rewards))], "best_worst", 0.0, 1, np.random.default_rng(0))
    assert (len(made.pairs), made.ties) == ((1, 0) if differ else (0, 1))


@pytest.mark.parametrize(
    ("rewards", "reasons", "useful"),
    [
        ([1.0, 1.0], ["stop", "length"], False),  # only the penalty of the cut reply tells them apart
        ([1.0, 0.0], ["length", "stop"], True),  # the penalty makes them equal
        ([1.0, 0.0], ["stop", "stop"], True),
    ],
)
def test_dapo_filters_by_the_reward_before_penalties(rewards: list[float], reasons: list[str], useful: bool) -> None:
    replies = [
        Completion(np.arange(3, dtype=np.int32), reward=reward, finish_reason=reason)
        for reward, reason in zip(rewards, reasons, strict=True)
    ]
    dapo, ctx = GRPO(resample=10, unfinished_penalty=1.0, unfinished_ramp=0.2), Context({})
    assert dapo.is_useful(Group("a", np.array([1], np.int32), replies), ctx) == useful


@pytest.mark.parametrize("turns", [1, 6])
def test_the_budget_of_sessions_is_that_of_all_turns(turns: int) -> None:
    algorithm, ctx = GRPO(aggregate="budget", budget=10, kl_weight=0.0, entropy=False), Context({})
    ctx.turns = turns
    reply = session(["a", "b", "c"])
    reply.advantages = np.array([0.5, 0.5, -1.0, -1.0, -1.0, 2.0], np.float32)
    groups = algorithm.batch_groups([Group("a", np.array([1], np.int32), [reply])], ctx)
    terms = algorithm.loss(Outputs(logprobs=torch.zeros(6)), build_batch([groups]))
    assert float(terms["loss_policy"].sum) == pytest.approx(-sum(reply.advantages.tolist()) / (10 * turns))


# Ends


@pytest.mark.parametrize("algorithm", [PPO, GRPO, RLOO, OnlineDPO])
@pytest.mark.parametrize("reason", SESSION_ENDS)
def test_each_end_of_a_session_has_its_penalty_and_its_metric(algorithm: Any, reason: str) -> None:
    """A counsellor whose client leaves after one good turn must be able to lose against one who holds six fair turns."""
    end, ctx = SESSION_ENDS[reason], Context({})
    early, whole = session(["4"]), session(["3", "3", "3"])
    early.reward, whole.reward, early.finish_reason, whole.finish_reason = 4.0, 3.0, reason, "stop"
    group = Group("a", np.array([1], np.int32), [early, whole])
    assert algorithm().rewards(group, ctx) == [4.0, 3.0] and not ctx.notes, "no penalty by default"
    assert algorithm(**{f"{end}_penalty": 2.0}).rewards(group, ctx) == [2.0, 3.0]
    assert ctx.notes == {f"{end}_penalty": 1.0}
    figures = reply_metrics([group], None, "rollout")
    assert {name: figures[f"rollout/{name}"] for name in SESSION_ENDS.values()} == {
        name: 0.5 * (name == end) for name in SESSION_ENDS.values()
    }
