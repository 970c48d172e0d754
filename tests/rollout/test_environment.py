"""verifiers loads our training clients, and its sessions and rewards are ours. `make extras` installs it."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psychocounsel.data.messages import Message
from psychocounsel.errors import UserError
from psychocounsel.evaluation.session.personas import ClientTurn, SessionExchange
from psychocounsel.evaluation.session.scripted import SHIPPED, ScriptedPersona
from psychocounsel.evaluation.session.training_clients import BUILTIN, training_clients
from psychocounsel.reward.local_model import LocalScorer
from tests.support.answering import Server, no_proxy, serving
from tests.support.harness import ROOT
from tests.support.rewarding import NO_JSON, answering, judged, rating, shown

__all__ = ["no_proxy"]

pytestmark = pytest.mark.extras
pytest.importorskip("verifiers.v1", reason="verifiers is an extra: pip install 'psychocounsel[environment]'")

Rule = Callable[[list[Message]], str]


def reply_of(said: list[Message]) -> str:
    """The policy's rule: it asks in every second turn."""
    return ["I hear you.", "What is the hardest part of it?"][len(said) // 2 % 2] + f" Turn {len(said) // 2}."


def policy(rule: Rule = reply_of, cut: int = 100) -> Any:
    """Return the `respond` of a server with a policy that replies by `rule`; turn number `cut` is cut."""

    def respond(payload: Any, number: int) -> Any:
        system, *said = payload["messages"]
        assert system["role"] == "system" and said[-1]["role"] == "user"
        reason = "length" if len(said) // 2 == cut else "stop"
        message = {"role": "assistant", "content": rule(said)}
        usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
        choices = [{"index": 0, "message": message, "finish_reason": reason}]
        return {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}

    return respond


def held(server: Server, names: Sequence[str], clients: str = BUILTIN, **settings: Any) -> dict[str, Any]:
    """Hold sessions with the clients of these names; return the episodes by name."""
    import verifiers.v1 as vf
    from verifiers.v1.utils.loaders import load_environment, resolve_env_config

    taskset = {"id": "psychocounsel", "clients": clients}
    environment = load_environment(resolve_env_config({"taskset": taskset, **settings}))
    context = vf.ModelContext(client=vf.EvalClientConfig(base_url=f"{server.address}/v1"), model="m")

    async def hold() -> list[Any]:
        tasks = [task for task in environment.taskset if task.data.name.split(": ")[1] in names]
        async with environment.serving():
            return await asyncio.gather(*(environment.run_episode(task, context) for task in tasks))

    return {episode.task.data.name.split(": ")[1]: episode for episode in asyncio.run(hold())}


def played(client: ScriptedPersona, turns: int, rule: Rule = reply_of) -> list[Message]:
    """Return the session of a client with the policy, step by step."""
    said, session = list[Message](), list[SessionExchange]()
    while len(session) < turns and (turn := client.next(session, 0)) is not None:
        assert isinstance(turn, ClientTurn)
        said.append({"role": "user", "content": turn.text})
        said.append({"role": "assistant", "content": rule(said)})
        session.append(SessionExchange(turn, said[-1]["content"]))
    return said


def said_in(episode: Any) -> list[Message]:
    (trace,) = episode.traces
    assert trace.ok and len(trace.branches) == 1, "one stretch of tokens for the trainer"
    return [{"role": node.message.role, "content": node.message.content} for node in trace.nodes][1:]


CLIENTS = {client.name: client for client in training_clients(BUILTIN)}
FEW = [*CLIENTS][::6]


@pytest.mark.parametrize(("over", "combine"), [("mean", np.mean), ("min", np.min), ("last", lambda each: each[-1])])
def test_sessions_and_rewards_are_ours(over: str, combine: Callable[[Any], float]) -> None:
    with serving(policy()) as server:
        episodes = held(server, FEW, reward=["reward=tiny"], turns=4, session_reward=over)
    scorer = LocalScorer.load("builtin:tiny_reward")
    assert [*episodes] == FEW
    for name, episode in episodes.items():
        said = played(CLIENTS[name], 4)
        assert said_in(episode) == said
        (trace,) = episode.traces
        wanted = scorer.score([said[:end] for end in range(2, len(said) + 1, 2)])
        assert trace.reward == pytest.approx(combine(wanted), abs=1e-5)
        parts = trace.info["turn_rewards"]
        assert len(parts) == 4 and sum(parts) == pytest.approx(trace.reward, abs=1e-5)


def test_a_cut_reply_and_a_client_that_leaves_end_the_session() -> None:
    name = FEW[0]
    with serving(policy(cut=2)) as server:
        (episode,) = held(server, [name], reward=["reward=tiny"]).values()
    assert said_in(episode) == played(CLIENTS[name], 3)
    with serving(policy()) as server:
        (episode,) = held(server, [name], reward=["reward=tiny"], turns=50).values()
    whole = played(CLIENTS[name], 50)
    assert said_in(episode) == whole and len(whole) < 100


def test_a_session_without_a_reward_fails_alone() -> None:
    """The long replies to one client are more than the reward model can hold."""
    long = CLIENTS[FEW[0]]

    def rule(said: list[Message]) -> str:
        return "And then? " * (300 if said[0] == played(long, 1)[0] else 1)

    with serving(policy(rule)) as server:
        episodes = held(server, FEW, reward=["reward=tiny", "reward.max_length=400"], turns=1)
    failed = {name for name, episode in episodes.items() if not episode.ok}
    assert failed == {FEW[0]} and "the reward model cannot hold it" in episodes[FEW[0]].errors[0].message
    assert not episodes[FEW[0]].traces[0].rewards


def test_a_judge_rewards_sessions_and_is_asked_once(tmp_path: Path) -> None:
    mute = CLIENTS[FEW[0]]

    def answer(content: str) -> str:
        return NO_JSON if played(mute, 1)[0]["content"] in content else judged(content)

    with serving(policy()) as server, serving(answering(answer)) as judge:
        reward = ["reward=rubric", "reward.judge.model=j", f"reward.judge.addresses=[{judge.address}/v1]"]
        given: Any = {"reward": [*reward, "reward.retries=0"], "turns": 2, "answers": str(tmp_path / "answers")}
        episodes = held(server, FEW, **given)
        asked = len(judge.asked)
        held(server, FEW[1:], **given)
    again = [payload for _, payload in judge.asked[asked:] if payload["messages"][-1]["content"] != "Hello."]
    assert asked > 2 * len(FEW) and not again, "the folder holds the answers"
    assert {name for name, episode in episodes.items() if not episode.ok} == {FEW[0]}
    contents = [payload["messages"][-1]["content"] for _, payload in judge.asked]
    names = next(text for text in contents if shown("reply", text)).rpartition("in this order: ")[2].rstrip(".")
    for name in FEW[1:]:
        replies = [message["content"] for message in played(CLIENTS[name], 2)[1::2]]
        ratings = [[rating(each, reply) for each in names.split(", ")] for reply in replies]
        wanted = np.mean([np.mean([value for value in of_reply if value]) for of_reply in ratings])
        assert episodes[name].traces[0].reward == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("clients", "reward", "message"),
    [
        (str(SHIPPED), ["reward=tiny"], "is a client of evaluation=session"),
        (BUILTIN, [], "give reward.path=YOUR_REWARD_MODEL, or reward=tiny"),
        (BUILTIN, ["reward=tiny", "algo.beta=1"], "algo.beta=1: is no setting of reward or budget"),
        (BUILTIN, ["reward=tiny", "reward.weigths={}"], "weigths"),
        (
            BUILTIN,
            ["reward=rubric", "reward.judge.model=j", "reward.ask=ranks"],
            "every turn follows another conversation",
        ),
        (
            BUILTIN,
            ["reward=rubric", "reward.judge=openai", "reward.judge.model=j"],
            "add reward.crisis_to_third_parties=true",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_a_session(clients: str, reward: list[str], message: str) -> None:
    with serving(policy()) as server, pytest.raises(UserError, match=message):
        held(server, FEW, clients, reward=reward)
    assert not server.asked


def test_the_command_of_the_page(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("vf-eval")), "psychocounsel", "--env.reward", "reward=tiny"]
    with serving(policy()) as server:
        command += ["--env.turns", "2", "-m", "m", "--client.base-url", f"{server.address}/v1", "-n", "3"]
        command += ["--no-push", "--no-rich", "--output-dir", str(tmp_path)]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("*/traces.jsonl")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [record["ok"] for record in records] == [True] * 3 and len(server.asked) == 6
