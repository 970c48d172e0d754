"""The step `conversations`: killed commands, failing calls, empty replies, shards, and clients played by a model."""

import contextlib
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from psychocounsel.asking.answers import Answers
from psychocounsel.asking.asker import ask_all
from psychocounsel.asking.budget import Budget
from psychocounsel.asking.language_model import Ask
from psychocounsel.errors import DONE, USER_ERROR
from psychocounsel.evaluation.contestants.settings import Contestant
from psychocounsel.evaluation.safety.seeded import seeded_replies
from psychocounsel.evaluation.session.conversations_step import session_rows
from psychocounsel.evaluation.session.dialogue import Conversation, SessionPlan, SideBySide, replay
from psychocounsel.evaluation.session.personas import ClientTurn, Persona, SessionExchange
from psychocounsel.storage.files import read_json
from tests.evaluation.session.counsellors import calls, contest, counsellors, evaluate, said, write_scripts
from tests.evaluation.session.test_session import TURNS, judged
from tests.support.answering import Reply, no_proxy, serving
from tests.support.asking import chat
from tests.support.harness import cli
from tests.support.scripted import Script, completion

__all__ = ["no_proxy"]


def rows(folder: Path, table: str = "session_turns") -> list[dict[str, Any]]:
    return list(pq.read_table(folder / f"{table}.parquet").to_pylist())


def keys(out: Path) -> list[str]:
    lines = [line for file in (out / "answers").glob("*.jsonl") for line in file.open() if line.endswith("\n")]
    return [found["key"] for line in lines if "key" in (found := json.loads(line))]


def killing(home: Path, at: list[int]) -> Any:
    """Kill the command at these numbers of calls, before they are answered."""
    number = [0]

    def kill(payload: Any) -> None:
        if payload["messages"][-1]["content"] == "Hello." or len(payload["messages"]) == 1:
            return
        number[0] += 1
        if at and number[0] >= at[0]:
            at.pop(0)
            with contextlib.suppress(ProcessLookupError):
                os.kill(read_json(home / "out" / "owner.json")["pid"], signal.SIGKILL)

    return kill


@pytest.mark.slow
def test_killed_in_conversations_and_in_answers_it_ends_as_an_unbroken_run(tmp_path: Path) -> None:
    write_scripts(tmp_path / "scripts")
    of_replies, of_answers = killing(tmp_path, [9]), killing(tmp_path, [12])

    def reply(payload: Any, number: int) -> Any:
        of_replies(payload)
        return said(payload)

    def judge(payload: Any, number: int) -> Any:
        of_answers(payload)
        return judged(payload, number)

    with counsellors(reply, 0.01) as server, counsellors(judge, 0.01) as judges:
        asks = ["judge=local_vllm", "judge.model=j", "judge.concurrency=1", f"judge.addresses=[{judges.address}/v1]"]
        options = ("evaluate", "evaluation=session", "personas.folder=scripts", *contest(server, "late"), *asks)
        for _ in range(2):
            broken = cli(*options, "run_dir=out", "cluster.threads=1", cwd=tmp_path, check_code=None)
            assert broken.returncode not in (DONE, USER_ERROR)
        cli(*options, "run_dir=out", "cluster.threads=1", cwd=tmp_path)
        bought = keys(tmp_path / "out")
        assert len(bought) == len(set(bought)) == TURNS + TURNS + len(seeded_replies())
        assert calls(server) <= TURNS + 3, (
            "only what was under way at the kill, one call of each session, is asked again"
        )
        cli(*options, "run_dir=whole", "cluster.threads=1", cwd=tmp_path)
    for name in ("session_turns.parquet", "session_answers.parquet", "figures.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_failed_call_ends_a_session_and_is_asked_again_and_silence_does_not(tmp_path: Path) -> None:
    write_scripts(tmp_path / "scripts")
    down = [True]

    def reply(payload: Any, number: int) -> Any:
        last = payload["messages"][-1]["content"]
        if last == "Turn 2 of house." and down[0]:
            return Reply(500)
        if last == "Turn 1 of garden.":
            return completion("  ", payload)
        if last == "Turn 2 of garden.":
            return Reply(400, b'{"error": {"message": "Blocked", "code": "content_filter"}}')
        return completion(None, payload, refusal="No.") if last == "Turn 3 of garden." else said(payload)

    with counsellors(reply) as server:
        member = [*contest(server, "good")[:-1], "against=[]"]
        first = evaluate(tmp_path, *member, "+model.retries=0")
        turns = rows(tmp_path / "out")
        house = [row for row in turns if row["persona"] == "house"]
        assert [(row["outcome"], row["ends"]) for row in house] == [("text", False)] * 2 + [("failed", False)]
        garden = [row for row in turns if row["persona"] == "garden"]
        assert [row["outcome"] for row in garden[:5]] == ["text", "empty", "filtered", "refused", "text"]
        assert all(row["text"] is None for row in garden[1:4]) and garden[-1]["ends"] and len(garden) == 8
        found = read_json(tmp_path / "out" / "figures.json")
        assert found["judges"]["checks"]["settings"]["good"]["sessions"] == 2
        assert found["sessions"]["good"] == {"sessions": 3, "incomplete": 1}
        assert "good: 1 of 3 sessions broke off; no figure includes them" in first
        again = "steps=[conversations]"
        assert f"conversations: 1 call failed; repeat the command with {again} to make them again" in first
        sent = [each for _, each in server.asked if each["messages"][-1]["content"] == "Turn 4 of garden."]
        silent = [each["content"] for each in sent[0]["messages"] if each["role"] == "assistant"]
        assert silent[1:] == ["", "", ""], "the client speaks again after silence"
        down[0] = False
        before = calls(server)
        evaluate(tmp_path, *member, "+model.retries=0", again)
        assert calls(server) - before == 6, "house from turn 2 on"
    assert [row["ends"] for row in rows(tmp_path / "out")] == ([False] * 7 + [True]) * 3


@dataclass(frozen=True)
class Played(Persona):
    """A client played by a model; it leaves when the model says so, and rejects numbers."""

    id: str = "played"
    name: str = "played"
    pattern: str = "own"
    kind: str | None = None

    def next(self, session: Sequence[SessionExchange], seed: int) -> ClientTurn | Ask | None:
        text = f"You said {session[-1].client.text}; they said {session[-1].reply}" if session else "Begin."
        return Ask(self.id, ({"role": "user", "content": text},), seed, "turn")

    def read(self, text: str, session: Sequence[SessionExchange]) -> ClientTurn | None:
        if text.isdigit():
            raise ValueError("no words")
        return None if text == "BYE" else ClientTurn(text)


def test_a_client_that_a_model_plays(tmp_path: Path) -> None:
    """Client and counsellor share a model name; unreadable answers are asked for again; two samples are two sessions."""

    def speak(payload: Any) -> str:
        last = payload["messages"][-1]["content"]
        if last.startswith("You said I am here; they said"):
            return "BYE" if payload["seed"] % 2 else "7"  # other random numbers at each attempt
        return "I am here"

    with serving(Script(speak)) as clients, serving(Script(lambda payload: "And then?")) as server:
        client, model = chat(clients.address, temperature=1.0), chat(server.address, temperature=0.5)
        plans = [
            SessionPlan(Played(), Contestant("m", 0, model), sample, client, "Be kind.", 5, 0) for sample in range(2)
        ]
        answers = Answers(tmp_path)
        sessions = SideBySide(Conversation(plan) for plan in plans)
        came = ask_all(
            sessions.calls(),
            answers,
            Budget(),
            read=str,
            models=[model, client],
            key=["contestants", "client"],
            retries=20,
        )
        for found in came:
            sessions.take(*found)
        of = [session_rows(plan, answers, 20) for plan in plans]
        calls_of = [replay(Conversation(plan), answers, 20) for plan in plans]
        answers.close()
    assert calls_of == [3, 3], "the client's words, the reply, and the client's BYE"
    for sample, session in enumerate(of):
        assert [(row["client"], row["text"], row["ends"]) for row in session] == [("I am here", "And then?", True)]
        assert session[0]["sample"] == sample and session[0]["expected_action"] is None
    asked = [payload["messages"] for _, payload in server.asked if payload["max_tokens"] > 16]
    assert asked == [[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "I am here"}]] * 2


def test_equal_calls_of_two_sessions_are_one_call(tmp_path: Path) -> None:
    """Two clients with the same first words get the same reply, from a single call."""

    class Twin(Played):
        def next(self, session: Sequence[SessionExchange], seed: int) -> ClientTurn | None:
            return ClientTurn("Hello there." if not session else f"I am {self.name}.", ends=bool(session))

    with serving(Script(latency=0.02)) as server:
        model = chat(server.address)
        plans = [
            SessionPlan(Twin(id=name, name=name), Contestant("m", 0, model), 0, None, None, 5, 0)
            for name in ("ada", "bea")
        ]
        answers = Answers(tmp_path)
        sessions = SideBySide(Conversation(plan) for plan in plans)
        for found in ask_all(sessions.calls(), answers, Budget(), read=str, models=[model], key="contestants"):
            sessions.take(*found)
        first, second = (session_rows(plan, answers, 0) for plan in plans)
        answers.close()
        assert sum(payload["max_tokens"] > 16 for _, payload in server.asked) == 3
    assert first[0]["text"] == second[0]["text"] and first[1]["text"] != second[1]["text"]


@pytest.mark.parametrize("count", [2])
def test_shards_hold_a_share_of_the_clients_and_the_whole_asks_nothing(tmp_path: Path, count: int) -> None:
    from omegaconf import open_dict

    from psychocounsel.evaluation.session import answers_step, conversations_step
    from psychocounsel.rundir.paths import EvaluationDir
    from psychocounsel.steps.course import StepContext
    from tests.support import contests

    write_scripts(tmp_path / "scripts")
    whole = EvaluationDir(tmp_path / "out")
    whole.answers.mkdir(parents=True)
    with counsellors() as server:
        config = contests.contest(
            *("evaluation=session", f"personas.folder={tmp_path / 'scripts'}", f"shards={count}", "cluster=slurm"),
            *contest(server, "good"),
        )
        for index in range(count):
            files = whole.shard(index)
            files.path.mkdir(parents=True)
            with open_dict(config):
                config.share = index
            context = StepContext(config, files, print, lambda items, *_, **__: items, (index, count))
            conversations_step.run(context)
            answers_step.run(context)
            assert not [row for row in rows(files.path, "session_answers") if row["setting"] == "seeded"]
        mine = [{row["speech"] for row in rows(whole.shard(index).path)} for index in range(count)]
        assert [len(each) for each in mine] == [2, 1] and not mine[0] & mine[1]
        config.share = None
        asked = calls(server)
        context = StepContext(config, whole, print, lambda items, *_, **__: items)
        conversations_step.run(context)
        assert calls(server) == asked == TURNS
    parts = sorted(
        (row for index in range(count) for row in rows(whole.shard(index).path)),
        key=lambda row: (row["speech"], row["turn"]),
    )
    assert rows(whole.path) == parts
