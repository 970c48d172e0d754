"""Request limits of a rollout server, without an engine."""

from typing import Any

import pytest

from psychocounsel.rollout.server import LONGEST_REQUEST, EngineProgress, Server

pytestmark = pytest.mark.slow  # needs packages of vLLM, which make test-slow installs
TestClient = pytest.importorskip("starlette.testclient").TestClient


class Engine:
    """Engine that counts its calls."""

    calls = 0

    async def collective_rpc(self, name: str, args: Any = ()) -> None:
        self.calls += 1


def test_requests_are_bounded_in_size() -> None:
    engine = Engine()
    asks = TestClient(
        Server(engine, EngineProgress(), "secret", 1, 256, "cpu").app(), headers={"Authorization": "Bearer secret"}
    )
    found = asks.post("/weights/join", content=b'["' + b"x" * LONGEST_REQUEST + b'"]')
    assert (found.status_code, found.json()) == (413, {"error": "a request has at most 64 MiB"})
    assert engine.calls == 0
    assert asks.post("/weights/join", content=b'{"port": 1}').json() == {}
    assert engine.calls == 1
    assert asks.post("/weights/join", content=b"{}", headers={"Authorization": "Bearer no"}).status_code == 401
