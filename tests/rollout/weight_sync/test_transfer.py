"""Addresses on which weights are offered: only those that the servers need."""

import inspect

import torch.distributed as dist

from psychocounsel.rollout.server import serve
from psychocounsel.rollout.vllm_server import VLLMServer
from psychocounsel.rollout.weight_sync.transfer import _store
from psychocounsel.settings.config import compose
from tests.support.listening import addresses_of


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
