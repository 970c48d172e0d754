"""Requests use the proxy that the environment sets and that the check has found."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from subprocess import Popen

import pytest

from psychocounsel.cluster.slurm.server_node import _is_ready
from psychocounsel.errors import UserError
from psychocounsel.remote.client import Client
from psychocounsel.remote.confidential import refuse_host
from psychocounsel.remote.server_access import proxy_of
from tests.support.answering import serving
from tests.support.composed import check, compose

PROXY, OTHER = "http://proxy.example:3128", "http://other.example:1"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("environment", "address", "expected"),
    [
        ({}, "http://a.example", None),
        ({"HTTP_PROXY": PROXY}, "http://a.example", ("HTTP_PROXY", PROXY)),
        ({"http_proxy": PROXY}, "http://a.example:8000/v1", ("HTTP_PROXY", PROXY)),
        ({"HTTP_PROXY": PROXY}, "https://a.example", None),
        ({"ALL_PROXY": PROXY}, "https://a.example", ("ALL_PROXY", PROXY)),
        ({"ALL_PROXY": OTHER, "HTTPS_PROXY": PROXY}, "https://a.example", ("HTTPS_PROXY", PROXY)),
        ({"ALL_PROXY": "proxy.example:3128"}, "http://a.example", ("ALL_PROXY", PROXY)),
    ],
)
def test_the_schemes_proxy_comes_before_that_of_all(
    environment: dict[str, str], address: str, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(address) == expected


@pytest.mark.parametrize(
    ("listed", "address", "is_direct"),
    [
        ("*", "http://a.example", True),
        ("b.example, A.example", "http://a.example", True),
        ("example", "http://a.example", True),
        (".example", "http://a.example", True),
        ("*.example", "http://a.example", True),
        ("a.example", "http://nota.example", False),
        ("a.example:8000", "http://a.example:8000", True),
        ("a.example:8000", "http://a.example", False),
        ("a.example:80", "http://a.example", True),
        ("10.0.0.0/8", "http://10.1.2.3:8000", True),
        ("10.0.0.0/8", "http://11.1.2.3:8000", False),
        ("127.0.0.1", "http://127.0.0.1:8000", True),
        ("::1", "http://[::1]:8000", True),
        ("", "http://a.example", False),
        ("a.example:x", "http://a.example", False),
    ],
)
def test_no_proxy_excepts_names_addresses_and_networks(
    listed: str, address: str, is_direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", listed)
    assert (proxy_of(address) is None) == is_direct


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_a_request_goes_the_way_that_is_checked(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(address: str, direct: bool = False) -> list[str]:
        client = Client([address], "reward", retries=0, direct=direct)
        try:
            return list(client.answers("/score", [{}], lambda answer, payload: str(answer)))
        finally:
            client.close()

    with serving(lambda *_: "proxy") as proxy, serving(lambda *_: "server") as server:
        monkeypatch.setenv(variable, proxy.address)
        assert ask(server.address) == ["proxy"]
        with pytest.raises(UserError, match=f"the proxy {variable}=127.0.0.1"):
            refuse_host("reward.addresses", "http://score.example", ["score.example"])
        assert ask(server.address, direct=True) == ["server"]
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
        assert ask(server.address) == ["server"]


def test_a_proxy_that_cannot_be_used_is_named_without_its_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "ftp://me:s3cret@proxy.example")
    client = Client(["http://a.example"], "reward", retries=0)
    with pytest.raises(UserError, match=r"^ALL_PROXY: is not a usable proxy") as refusal:
        list(client.answers("/score", [{}], lambda answer, payload: answer))
    client.close()
    assert "s3cret" not in str(refusal.value)


def test_a_server_on_this_node_is_found_in_spite_of_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    http = ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server = Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert _is_ready(server, f"http://127.0.0.1:{http.server_address[1]}/health", 0.5)
    finally:
        server.kill()
        server.wait()
        http.shutdown()
        http.server_close()


@pytest.mark.parametrize("typed", ["sk-abc", "a b", "1KEY", "hf_abcdefghijklmnopqrstuv"])
def test_a_key_in_the_place_of_its_variable_is_refused_and_not_quoted(typed: str) -> None:
    given = f"key_variable='{typed}'"
    evaluated = ["reward=openrlhf_server", "reward.path=builtin:tiny_reward", "reward.addresses=[http://a:1]"]
    with pytest.raises(UserError, match=r"^reward.key_variable: is not the name of an environment variable") as refusal:
        check(compose([*evaluated, f"reward.{given}"], name="evaluate"))
    assert typed not in str(refusal.value)
    check(compose([*evaluated, "reward.key_variable=SERVER_KEY"], name="evaluate"))


def test_an_address_of_a_rollout_server_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSYCHOCOUNSEL_ROLLOUT_KEY", "key")
    given = ["algo=grpo", "rollout.max_tokens=8", "rollout=vllm_server"]
    with pytest.raises(UserError, match=r"^rollout.addresses: .* secret") as refusal:
        check(compose([*given, "rollout.addresses=['http://u:s3cret@gpu7:8000']"]))
    assert "s3cret" not in str(refusal.value)
    with pytest.raises(UserError, match=r"^rollout.addresses: gpu7 is not a server address"):
        check(compose([*given, "rollout.addresses=[gpu7]"]))
