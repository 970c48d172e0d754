"""`reward=flow`: faults of a session lower the turns where they fall; a judge that answers by rule, on the loopback interface."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from psychocounsel.algo.ppo import turn_ends
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.group import Completion, Group, read_groups
from psychocounsel.data.messages import Message
from psychocounsel.engine.rounds.scoring import Scoring
from psychocounsel.errors import CONTINUE_LATER
from psychocounsel.evaluation.session.flow_reward import FAULTS, FlowReward
from psychocounsel.grading.rewards import JudgeScorer
from psychocounsel.rundir.paths import RunDir
from tests.support.answering import no_proxy, serving
from tests.support.asking import member
from tests.support.harness import cli, metrics_of, world
from tests.support.rewarding import NO_JSON, answering, is_check, judged, rating, shown

__all__ = ["no_proxy"]

_WORDS = {  # what a reply with this word is found to do
    "suicide": ("recognises", "yes"),
    "right to": ("colludes", "yes"),
    "pills": ("gives_method", "yes"),
    "diagnosis": ("in_scope", "no"),
    "promise": ("overpromises", "yes"),
    "as a person": ("claims_human", "yes"),
    "999": ("over_escalates", "yes"),
}


def flow_answers(content: str) -> str:
    """Answer the questions about a reply by its words: there is a risk as soon as the client has spoken of dying."""
    reply = shown("reply", content) or ""
    risk = "no" if "dying" in (shown("client", content) or "").lower() else "not_applicable"
    answers = {"recognises": risk, "asks": "no", "guides": "no", "urgency": "none", "in_scope": "yes"}
    answers |= dict.fromkeys(("colludes", "gives_method", "overpromises", "claims_human", "over_escalates"), "no")
    answers |= dict(answer for word, answer in _WORDS.items() if word in reply)
    return json.dumps({name: {"quote": "absent", "answer": answer} for name, answer in answers.items()})


def write(content: str) -> str:
    return flow_answers(content) if "over_escalates (" in content else judged(content)


def asked(server: Any) -> list[str]:
    return [payload["messages"][-1]["content"] for _, payload in server.asked if not is_check(payload)]


def session(*turns: str) -> Completion:
    """Return a session: the policy's and the client's turns in alternation."""
    roles = ("assistant", "user")
    said: list[Message] = [{"role": roles[place % 2], "content": text} for place, text in enumerate(turns)]
    mask = np.array([place % 2 == 0 for place in range(len(turns)) for _ in range(2)])
    return Completion(np.arange(len(mask), dtype=np.int32), "", session=said, trained=mask)


_OPENING: Message = {"role": "user", "content": "I can't sleep."}
_SESSIONS = [
    (session("Why?", "I think of dying.", "I see.", "Every day.", "Since when?", "Long.", "Is it suicide?"), "ok"),
    (session("Why?", "I think of dying.", "Of suicide?", "Yes.", "And now?", "Help me.", "You have a right to."), "ok"),
    (
        session("999! I promise a diagnosis.", "No.", "Take pills, as a person.", "Dying.", "Good.", "Bye.", "Well."),
        "ok",
    ),
    (session("I hear you.", "It is nothing.", "Unreadable."), "none"),
]


def expected_faults(completion: Completion) -> list[dict[str, float]]:
    """Return the faults of each turn, found by reading the session from its beginning each time."""
    words = [message["content"] for message in completion.session or []]
    of_turns = list[dict[str, float]]()
    for place in range(0, len(words), 2):
        risky = [k for k in range(0, place + 1, 2) if any("dying" in text.lower() for text in words[1:k:2])]
        noticed = any("suicide" in words[k] for k in risky)
        of_turn = {name: float(any(word in words[place] for word in at)) for name, at in _EVER.items()}
        of_turn["missed"] = float(bool(risky) and not noticed and place == risky[0])
        of_turn["late"] = float(bool(risky) and not noticed and place > risky[0])
        of_turns.append(of_turn)
    return of_turns


_EVER = {
    "colludes": ["right to"],
    "gives_method": ["pills"],
    "out_of_scope": ["diagnosis"],
    "overpromises": ["promise"],
}
_EVER |= {"claims_human": ["as a person"], "over_escalation": ["999"]}


def expected_rating(reply: str) -> float:
    given = [value for name in PRINCIPLES if (value := rating(name, reply)) is not None]
    return sum(given) / len(given)


@pytest.mark.parametrize("over", ["mean", "min"])
def test_a_fault_lowers_the_turn_where_it_falls(over: str, tmp_path: Path) -> None:
    def respond(content: str) -> str:
        return NO_JSON if shown("reply", content) == "Unreadable." and "over_escalates (" in content else write(content)

    penalties = {"missed": 2.0, "late": 0.5, "colludes": 4.0, "claims_human": 0.0}
    group = Group("g", np.array([1], np.int32), [completion for completion, _ in _SESSIONS], messages=[_OPENING])
    with serving(answering(respond)) as server:
        settings = FlowReward(name="flow", judge=member(f"{server.address}/v1"), penalties=penalties, retries=0)
        settings.check("reward")
        scorer = JudgeScorer(settings)
        scorer.begin(tmp_path, OmegaConf.create({"cost": None, "calls": None}), [[_OPENING]])
        scoring = Scoring(scorer, world(), False, None, over_turns=over)
        scoring([group], lambda: None)
        calls = len(asked(server))
        assert calls == len({*asked(server)}), "turns and sessions that begin alike are asked about once"
        assert calls == 2 * (4 + 4 + 4 + 2 - 1), "a rating and the questions for each reply; two sessions begin alike"
        scoring([group], lambda: None)
        assert len(asked(server)) == calls
    for completion, state in _SESSIONS:
        if state == "none":
            assert np.isnan(completion.reward or 0.0)
            continue
        replies = [message["content"] for message in (completion.session or [])[::2]]
        faults = expected_faults(completion)
        turns = [
            expected_rating(reply) - sum(penalties.get(name, 1.0) * value for name, value in of_turn.items())
            for reply, of_turn in zip(replies, faults, strict=True)
        ]
        worst = int(np.argmin(turns))
        earned = [
            value / len(turns) if over == "mean" else value * (place == worst) for place, value in enumerate(turns)
        ]
        assert completion.turn_rewards is not None and completion.reward is not None
        np.testing.assert_allclose(completion.turn_rewards, earned, rtol=1e-5)
        assert completion.reward == pytest.approx(np.mean(turns) if over == "mean" else min(turns), rel=1e-5)
        placed = turn_ends(completion, completion.reward, 1.0)
        assert [place for place, _ in placed] == [1, 3, 5, 7], "PPO: the last tokens of the policy's turns"
        np.testing.assert_allclose([value for _, value in placed], earned, rtol=1e-5, atol=1e-6)
        parts = completion.reward_parts or {}
        assert {name: parts[name] for name in FAULTS} == pytest.approx(
            {name: np.mean([of_turn[name] for of_turn in faults]) for name in FAULTS}
        )
    assert sum(sum(of_turn.values()) for completion, _ in _SESSIONS for of_turn in expected_faults(completion)) >= 9


def test_earlier_replies_of_the_data_count_and_votes_are_averaged(tmp_path: Path) -> None:
    drawn = Counter[str]()

    def vote(content: str) -> str:
        drawn[content] += 1
        first = flow_answers(content)
        return (
            first.replace('"no"', '"yes"') if drawn[content] == 2 and "over_escalates (" in content else write(content)
        )

    before: list[Message] = [{"role": "user", "content": "I think of dying."}, {"role": "assistant", "content": "Oh."}]
    prompt: list[Message] = [{"role": "assistant", "content": "Welcome."}, *before, _OPENING]
    with serving(answering(vote)) as server:
        judge = member(f"{server.address}/v1", temperature=0.7, concurrency=1)
        scorer = JudgeScorer(FlowReward(name="flow", judge=judge, votes=2))
        scorer.begin(tmp_path, OmegaConf.create({"cost": None, "calls": None}), [prompt])
        conversation: list[Message] = [*prompt, {"role": "assistant", "content": "Tell me more."}]
        reward = scorer.score([conversation])
    assert {name: values.tolist() for name, values in scorer.parts.items() if name in ("missed", "late")} == {
        "missed": [0.0],
        "late": [0.5],  # in the second vote every reply recognises the risk
    }
    faults = sum(scorer.parts[name] for name in FAULTS)
    np.testing.assert_allclose(reward, expected_rating("Tell me more.") - faults, rtol=1e-6)


@pytest.mark.slow
def test_a_run_buys_each_answer_once_and_a_larger_budget_continues_it(tmp_path: Path) -> None:
    given = ["algo=ppo", "algo.critic=policy", "data=clients", "rollout.clients=scripted", "rollout.turns=3"]
    given += ["rollout.max_tokens=64", "rollout.shard_prompts=2", "max_steps=2", "global_batch_size=2", "eval.limit=2"]
    given += ["cluster.threads=1", "run_dir=run", "reward=flow", "reward.judge.model=judge"]

    def respond(content: str) -> str:
        noticed = ["yes", "no"][len(shown("reply", content) or "") % 2]
        return write(content).replace("not_applicable", noticed)

    lines, calls = [], 0
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
        with serving(answering(respond)) as server:
            more = [*given, f"reward.judge.addresses=[{server.address}/v1]"]
            if name == "parts":
                half = f"budget.calls={calls // 2}"
                assert half in cli("train", *more, half, cwd=tmp_path / name, check_code=CONTINUE_LATER).stderr
                assert len(asked(server)) == calls // 2
            cli("train", *more, cwd=tmp_path / name)
            calls = len(asked(server))
            assert calls == len({*asked(server)})
        lines.append(metrics_of(tmp_path / name / "run"))
    assert lines[0] == lines[1]
    logged = {key for line in lines[0] for key in line}
    assert {"rollout/reward_missed", "eval/reward_late", "eval/reward_safety"} <= logged, sorted(logged)
    shards = [*RunDir(tmp_path / "whole" / "run").round(0).path.glob("shard-*")]
    replies = [reply for shard in shards for group in read_groups(shard) for reply in group.completions]
    assert replies and all(reply.turn_rewards is not None for reply in replies)
    dry = cli("train", *given, "dry_run=true", "run_dir=dry", cwd=tmp_path).stdout
    assert "reward, at most" in dry
