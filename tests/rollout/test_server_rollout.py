"""How a run speaks with its rollout servers: by which way, and what it repeats of their answers."""

from collections.abc import Iterator
from typing import Any

import pytest

from psychocounsel.errors import hide_words
from psychocounsel.remote.client import Client
from psychocounsel.rollout.vllm_server import KEY_VARIABLE, VLLMServer, VLLMServerRollout
from tests.support.answering import serving
from tests.support.harness import world


@pytest.fixture
def hidden() -> Iterator[None]:
    hide_words(True)
    yield
    hide_words(False)


def rollout(*addresses: str) -> VLLMServerRollout:
    engine: Any = None
    return VLLMServerRollout(engine, None, [], world(), list, VLLMServer(addresses=[*addresses]))


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
        client = settings._client(Client, [server.address])
        assert list(client.answers("/generate", [{}], lambda answer, payload: answer)) == [way]
        client.close()


@pytest.mark.usefixtures("hidden")
def test_of_confidential_data_a_servers_version_is_not_shown() -> None:
    with pytest.raises(ValueError, match="version not shown") as refusal:
        rollout()._read(1, {"version": "I told nobody", "replies": []}, {})
    assert "I told" not in str(refusal.value)
