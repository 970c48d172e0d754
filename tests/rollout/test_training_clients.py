"""Clients of training sessions: scripts go their way, a model is asked once for each turn, and evaluations stay apart."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from psychocounsel.data.group import read_groups
from psychocounsel.data.messages import Message
from psychocounsel.errors import UserError
from psychocounsel.evaluation.session.personas import ClientTurn, SessionExchange
from psychocounsel.evaluation.session.played import LEAVES
from psychocounsel.evaluation.session.scripted import SHIPPED
from psychocounsel.evaluation.session.training_clients import BUILTIN, PlayedClients, ScriptedClients, training_clients
from psychocounsel.rundir.paths import RunDir
from psychocounsel.storage.files import read_json
from tests.support.answering import Reply, no_proxy, serving
from tests.support.asking import member
from tests.support.harness import cli, metrics_of

__all__ = ["no_proxy"]

REPLIES = [
    ["I see."] * 20,
    ["Are you thinking of suicide? Are you safe now?", "Please call 999 or a crisis line now."] * 10,
    ["I promise that everything will be fine.", "You should just take a pill."] * 10,
]


@pytest.mark.parametrize("replies", REPLIES)
def test_scripted_clients_say_what_their_scripts_say(replies: list[str], tmp_path: Path) -> None:
    clients = ScriptedClients().open(OmegaConf.create({"data": {"path": BUILTIN, "eval_path": None}}), tmp_path)
    for persona in training_clients(BUILTIN):
        session, turn = list[SessionExchange](), persona.next((), 0)
        conversation = list[Message]()
        for reply in replies:
            assert isinstance(turn, ClientTurn)
            conversation += [{"role": "user", "content": turn.text}, {"role": "assistant", "content": reply}]
            session.append(SessionExchange(turn, reply))
            turn = persona.next(session, 0)
            (words,) = clients.answers([conversation], [0])
            assert words == (None if turn is None else turn.text)
            if turn is None:
                break
        assert turn is None and len(session) >= 8


def test_clients_of_the_evaluation_and_equal_first_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a client of evaluation=session"):
        training_clients(str(SHIPPED))
    file = next(iter(sorted((Path(__file__).parents[2] / "psychocounsel" / "data" / "clients").glob("*.yaml"))))
    content = yaml.safe_load(file.read_text())
    content["personas"].append({**content["personas"][0], "name": "another-one"})
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="begin with the same words"):
        training_clients(str(tmp_path))
    with pytest.raises(UserError, match="is not a folder"):
        training_clients(str(tmp_path / "nothing"))


# Played clients


def speaking(stop_after: int | None = None) -> Any:
    """Return the `respond` of a server that plays a client who leaves with its message number `stop_after`."""

    def respond(payload: Any, number: int) -> Any:
        said = [message for message in payload["messages"] if message["role"] == "assistant"]
        text = f"It is my message {len(said) + 1}, after {len(payload['messages'][-1]['content'])} letters."
        text += f"\n{LEAVES}" if stop_after == len(said) + 1 else ""
        return {"model": "served", "choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": {}}

    return respond


LIMITS = {"cost": None, "calls": None}


def played(address: str, folder: Path) -> Any:
    settings = PlayedClients(client=member(f"{address}/v1"))
    return settings.open(OmegaConf.create({"budget": LIMITS}), folder)


def talk(clients: Any, turns: int, before: Sequence[Message] = ()) -> list[Message]:
    conversation: list[Message] = [*before, {"role": "user", "content": "I can't sleep."}]
    for turn in range(turns):
        conversation.append({"role": "assistant", "content": f"Reply {turn}."})
        (words,) = clients.answers([conversation], [turn])
        if words is None:
            break
        conversation.append({"role": "user", "content": words})
    return conversation


def test_a_played_client_goes_on_from_the_conversation_of_the_data_until_it_leaves(tmp_path: Path) -> None:
    before: list[Message] = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello, Ann."}]
    with serving(speaking(stop_after=4)) as server:
        conversation = talk(played(server.address, tmp_path), 5, before)
        asked = [payload["messages"] for payload in server.answered if payload["messages"][-1]["content"] != "Hello."]
    assert [message["role"] for message in conversation] == ["user", "assistant"] * 4, (
        "it hears a reply to its farewell"
    )
    assert all(LEAVES not in message["content"] for message in conversation)
    heard = [message["content"] for message in asked[1][2:]]
    assert len(asked) == 2
    assert heard == ["Hello.", "Hello, Ann.", "I can't sleep.", "Reply 0.", conversation[4]["content"], "Reply 1."]
    with serving(speaking()) as server:
        talk(played(server.address, tmp_path / "other"), 2, [{"role": "assistant", "content": "Welcome."}])
        assert "What the counsellor wrote first: Welcome." in server.answered[-1]["messages"][0]["content"]


def test_what_a_played_client_said_is_not_bought_twice(tmp_path: Path) -> None:
    with serving(speaking()) as server:
        first = talk(played(server.address, tmp_path), 3)
        count = len(server.answered)
        assert talk(played(server.address, tmp_path), 3) == first
        assert len(server.answered) - count <= 1, "at most the check of the connection"


@pytest.mark.parametrize(
    "processes", [pytest.param(1, marks=pytest.mark.proof), pytest.param(2, marks=pytest.mark.slow)]
)
def test_a_killed_run_with_played_clients_buys_nothing_twice(tmp_path: Path, processes: int) -> None:
    given = [
        "algo=grpo",
        "algo.samples=2",
        "rollout.max_tokens=64",
        "rollout.shard_prompts=2",
    ]
    given += ["max_steps=2", "global_batch_size=4", "data.limit=60", "eval.limit=4", "cluster.threads=1", "run_dir=run"]
    given += ["reward=tiny", "rollout.clients=played", "rollout.clients.client.model=client", "rollout.turns=3"]
    given += ["rollout.clients.client.concurrency=1", f"cluster.processes={processes}"]

    def asked(payloads: list[Any]) -> Counter[str]:
        return Counter(json.dumps(payload["messages"]) for payload in payloads if len(payload["messages"]) > 1)

    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    with serving(speaking()) as server:
        at = f"rollout.clients.client.addresses=[{server.address}/v1]"
        cli("train", *given, at, cwd=tmp_path / "whole")
        whole = asked(server.answered)
    assert whole, "some session goes on"
    reached, respond = threading.Event(), speaking()

    def stalls(payload: Any, number: int) -> Any:
        if number == max(1, whole.total() // 2) and not reached.is_set():
            reached.set()
            return Reply(hang=600)
        return respond(payload, number)

    with serving(stalls) as server:
        at = f"rollout.clients.client.addresses=[{server.address}/v1]"
        command = [sys.executable, "-m", "psychocounsel.train", *given, at]
        started = subprocess.Popen(command, cwd=tmp_path / "parts", start_new_session=True, stdout=subprocess.DEVNULL)
        assert reached.wait(120)
        time.sleep(1)  # the answers before it are on disk
        owner = read_json(RunDir(tmp_path / "parts" / "run").owner)
        os.kill(owner["pid"], signal.SIGKILL)
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        cli("train", *given, at, cwd=tmp_path / "parts")
        assert asked(server.answered) == whole
    lines = [[{**row, "attempt": 0} for row in metrics_of(tmp_path / place / "run")] for place in ("whole", "parts")]
    assert lines[0] == lines[1]
    shards = sorted((tmp_path / "parts" / "run" / "rounds" / "0000").glob("shard-*.parquet"))
    replies = [reply for file in shards for group in read_groups(file) for reply in group.completions]
    assert any("It is my message" in message["content"] for reply in replies for message in reply.session or [])
