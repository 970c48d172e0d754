"""Requests from a run to its rollout servers, and the addresses on which it offers weights."""

import inspect
import json
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist
from transformers import AutoTokenizer

from psychocounsel.data.group import Group
from psychocounsel.errors import GoOnLater, UserError, hide_words
from psychocounsel.remote import client
from psychocounsel.rollout.base import Sampling
from psychocounsel.rollout.server import serve
from psychocounsel.rollout.vllm_server import KEY_VARIABLE, VLLMServer, VLLMServerRollout
from psychocounsel.rollout.weight_sync import _store
from tests.support.answering import Reply, serving
from tests.support.composed import check, compose
from tests.support.harness import TINY, world
from tests.support.listening import addresses_of

# Requests from a run to its rollout servers: proxies, concurrency, and words that messages repeat.


@pytest.fixture
def hidden() -> None:
    hide_words(True)


def rollout(*addresses: str) -> VLLMServerRollout:
    engine: Any = None
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    return VLLMServerRollout(engine, tokenizer, [], world(), list, VLLMServer(addresses=[*addresses]))


@pytest.mark.parametrize(("is_given", "way"), [(False, "server"), (True, "proxy")])
def test_servers_that_the_run_starts_are_reached_without_a_proxy(
    is_given: bool, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "key")
    monkeypatch.delenv("http_proxy", raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving(lambda *_: "proxy") as proxy, serving(lambda *_: "server") as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.address)
        settings = rollout(server.address) if is_given else rollout()
        client = settings._client([server.address])
        assert list(client.answers("/generate", [{}], lambda answer, payload: answer)) == [way]
        client.close()


@pytest.mark.parametrize(("slots", "n", "most"), [(8, 2, 4), (8, 1, 8), (3, 8, 1)])
def test_a_server_is_asked_for_as_many_replies_at_once_as_it_has_slots(
    slots: int, n: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "key")
    answer = Reply(hang=0.05, body=json.dumps({"version": 0, "replies": [[[[7], [-0.5]]] * n]}).encode())
    with serving(lambda *_: answer) as server:
        asking = rollout(server.address)
        asking.version, asking.slots = 0, slots
        asking.client = asking._client([server.address])
        groups = [Group(f"p{number}", np.array([1], np.int32), []) for number in range(24)]
        made = asking.generate(groups, Sampling(n, 1.0, 4, 16, seed=1))
        asking.client.close()
    assert [group.id for group in made] == [group.id for group in groups] and server.busiest == most


def test_shards_are_given_back_as_they_are_complete_and_what_is_begun_ahead_is_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "key")
    monkeypatch.setattr(client, "_LOOK_SECONDS", 0.1)
    body = json.dumps({"version": 0, "replies": [[[[7], [-0.5]]]]}).encode()

    def answer(payload: Any, number: int) -> Reply:
        return Reply(hang=0.8 if payload["prompts"] == [[0]] else 0.03, body=body)

    shards = [([Group(f"p{n}", np.array([n % 8], np.int32), [])], Sampling(1, 1.0, 4, 16, seed=n)) for n in range(8)]
    with serving(answer) as server:
        asking = rollout(server.address)
        asking.version, asking.slots = 0, 2
        asking.client = asking._client([server.address])
        assert [number for number, _ in asking.write(shards, lambda: None)] == [1, 2, 3, 4, 5, 6, 7, 0]
        ahead = [number for number, _ in asking.write_alone(shards * 4, lambda: len(server.answered) > 11)]
        asking.client.close()
    assert ahead[-1] == 0 and 12 <= len(server.answered) < 40, "what is begun is finished, and nothing more begins"


def test_each_reply_names_the_server_that_wrote_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "key")
    monkeypatch.setattr(client, "_LOOK_SECONDS", 0.1)
    tokens = (7, 8)
    bodies = [json.dumps({"version": 0, "replies": [[[[token], [-0.5]]] * 2]}).encode() for token in tokens]
    with (
        serving(lambda *_: Reply(hang=0.02, body=bodies[0])) as one,
        serving(lambda *_: Reply(hang=0.02, body=bodies[1])) as other,
    ):
        wrote = dict(zip(tokens, (one.address, other.address), strict=True))
        asking = rollout(*wrote.values())
        asking.version, asking.slots = 0, 4
        asking.client = asking._client([*wrote.values()])
        groups = [Group(f"p{number}", np.array([1], np.int32), []) for number in range(12)]
        made = asking.generate(groups, Sampling(2, 1.0, 4, 16, seed=1))
        asking.client.close()
    replies = [reply for group in made for reply in group.completions]
    assert {reply.ids[0] for reply in replies} == {*tokens}
    assert all(reply.engines == [wrote[reply.ids[0]]] for reply in replies)


@pytest.mark.parametrize("version", [-1, 3])
def test_servers_that_took_weights_before_are_a_temporary_obstacle(
    version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = rollout("http://127.0.0.1:9")
    asking.version = version
    monkeypatch.setattr(asking, "_sent", lambda version: ([], 1, "rollout.addresses: no server answers"))
    with pytest.raises(UserError, match="no server answers") as caught:
        asking.sync(4)
    assert isinstance(caught.value, GoOnLater) == (version == 3)


@pytest.mark.usefixtures("hidden")
def test_of_confidential_data_a_servers_version_is_not_shown() -> None:
    with pytest.raises(ValueError, match="version not shown") as refusal:
        rollout()._read(1, {"version": "I told nobody", "replies": []}, {})
    assert "I told" not in str(refusal.value)


@pytest.mark.parametrize(
    ("overrides", "refusal"),
    [
        (["model.quantise=nf4", "model.lora.rank=4"], r"^model.quantise=nf4: vLLM cannot load quantised weights"),
        (["model.lora.rank=513"], r"^model.lora.rank=513: vLLM supports adapters up to rank 512"),
    ],
)
def test_weights_that_no_server_can_hold_are_refused_before_the_start(
    overrides: list[str], refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "key")
    given = ["algo=rloo", "reward=tiny", "rollout=vllm_server", "rollout.addresses=['http://gpu7:8000']"]
    check(compose(given))
    with pytest.raises(UserError, match=refusal):
        check(compose([*given, *overrides]))


# Addresses on which weights are offered: only those that the servers need.


def test_the_store_of_a_transfer_is_on_loopback_unless_a_server_is_on_another_machine() -> None:
    here, elsewhere = _store(["http://127.0.0.1:8000"]), _store(["http://127.0.0.1:8000", "http://203.0.113.7:8000"])
    assert addresses_of(here.port) == {"127.0.0.1"}
    assert addresses_of(elsewhere.port) - {"127.0.0.1"}
    for store in (here, elsewhere):
        client = dist.TCPStore("127.0.0.1", store.port, is_master=False, wait_for_workers=False)
        client.set("place", "1")
        assert store.get("place") == b"1"


def test_a_rollout_server_is_on_loopback_unless_training_is_on_other_nodes() -> None:
    assert inspect.signature(serve).parameters["host"].default == "127.0.0.1"
    on_a_node = VLLMServer.server_command(compose(["algo=online_dpo", "rollout=vllm_server"]).rollout)
    assert on_a_node[-2:] == ["{port}", "0.0.0.0"]
