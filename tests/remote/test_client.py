"""HTTP client against servers that fail in every way, over real sockets."""

import json
import time
from collections import Counter
from typing import Any

import pytest

from psychocounsel.errors import GoOnLater, UserError
from psychocounsel.remote.client import Client
from tests.support.answering import Reply, dead_address, no_proxy, serving

__all__ = ["dead_address", "no_proxy"]


def double(payload: Any, number: int) -> Any:
    return {"double": 2 * payload["number"]}


def read(answer: Any, payload: Any) -> int:
    if not isinstance(answer, dict) or not isinstance(answer.get("double"), int):
        raise ValueError("it has no double")
    return answer["double"]


def ask(client: Client, count: int) -> list[int]:
    return list(client.answers("/double", [{"number": number} for number in range(count)], read))


def refusal(*addresses: str, count: int = 1, **settings: Any) -> str:
    """Return the one-line error that the client raises."""
    settings = {"retries": 1, "timeout_seconds": 0.5, **settings}
    with pytest.raises(UserError) as caught:
        ask(Client(addresses, "reward", **settings), count)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def numbers(asked: list[Any]) -> list[int]:
    return [payload["number"] for _, payload in asked]


def test_answers_come_in_order_from_all_servers_and_no_more_at_once_than_allowed() -> None:
    def slow(payload: Any, number: int) -> Reply:
        body = json.dumps(double(payload, number)).encode()
        return Reply(hang=0.1 if payload["number"] % 3 == 0 else 0.01, body=body)

    with serving(slow) as first, serving(slow) as second:
        client = Client([first.address, second.address + "/"], "reward", concurrency=4)
        assert ask(client, 24) == [2 * number for number in range(24)]
        assert sorted(numbers(first.asked) + numbers(second.asked)) == list(range(24))
        assert min(len(first.asked), len(second.asked)) >= 6, "both servers get requests"
        assert {path for path, _ in first.asked + second.asked} == {"/double"}
        assert first.busiest <= 2 and second.busiest <= 2


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_passing_faults_are_asked_again(status: int) -> None:
    with serving(lambda payload, number: Reply(status) if number < 2 else double(payload, number)) as server:
        assert ask(Client([server.address], "reward", retries=2), 1) == [0]
        assert len(server.asked) == 3
    with serving(lambda payload, number: Reply(status, b'{"error": {"message": "too busy now"}}')) as server:
        line = refusal(server.address)
        assert f"status {status}" in line and "(too busy now)" in line and server.address in line
        assert len(server.asked) == 2


@pytest.mark.parametrize("fault", [Reply(drop=True), Reply(hang=3)], ids=["broken connection", "hangs"])
def test_a_broken_connection_and_a_time_out_are_asked_again(fault: Reply) -> None:
    with serving(lambda payload, number: fault if number == 0 else double(payload, number)) as server:
        assert ask(Client([server.address], "reward", retries=1, timeout_seconds=0.5), 1) == [0]
    with serving(lambda payload, number: fault) as server:
        started = time.monotonic()
        line = refusal(server.address)
        assert time.monotonic() - started < 3
        assert ("no answer within 0.5 s" in line) == bool(fault.hang)
        assert line.startswith("reward.addresses: no server answers") and "start the servers" in line


def test_retry_after_is_waited_for_and_too_long_a_wait_is_a_failure() -> None:
    busy = Reply(429, Retry_After="2")
    with serving(lambda payload, number: busy if number == 0 else double(payload, number)) as server:
        started = time.monotonic()
        assert ask(Client([server.address], "reward", retries=1), 1) == [0]
        assert time.monotonic() - started >= 2
    with serving(lambda payload, number: Reply(429, Retry_After="7200")) as server:
        assert "status 429 Too Many Requests" in refusal(server.address, retries=8)
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(400, b'{"error": {"message": "only 2048 tokens fit"}}'), "400 Bad Request (only 2048 tokens fit); "),
        (Reply(401), "401 Unauthorized; name the environment variable that holds its key by reward.key_variable"),
        (Reply(404, b"<html>nothing here</html>"), "404 Not Found; is it the right kind of server"),
        (Reply(413), "lower reward.batch_size"),
        (Reply(307), "status 307"),
        (Reply(422, b'{"detail": "wrong: number"}'), "422"),
        (Reply(200, b"<html>sign in</html>"), "something other than JSON"),
        ({"other": 1}, "its answer cannot be used: it has no double"),
    ],
)
def test_what_another_attempt_would_not_change_is_refused_at_once(reply: Any, said: str) -> None:
    with serving(lambda payload, number: reply) as server:
        line = refusal(server.address, retries=8, timeout_seconds=10.0)
        assert said in line and server.address in line
        assert len(server.asked) == 1


def test_neither_the_request_nor_the_key_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-abcdefghijklmnop")
    secret = "My husband shouts at me every evening."

    def echo(payload: Any, number: int) -> Reply:
        words = "bad key sk-abcdefghijklmnop" if payload == "key" else f"cannot parse: {payload[3:30]}"
        return Reply(403, json.dumps({"detail": words}).encode())

    with serving(echo) as server:
        client = Client([server.address], "reward", key_variable="MY_KEY")
        for payload in ("key", secret):
            with pytest.raises(UserError, match="does not accept the key in MY_KEY") as caught:
                list(client.answers("/x", [payload], read))
            assert "sk-abc" not in str(caught.value) and "husband" not in str(caught.value)
        assert server.keys == ["Bearer sk-abcdefghijklmnop"] * 2
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(UserError, match="reward.key_variable=MY_KEY: this environment variable holds no key"):
        Client([server.address], "reward", key_variable="MY_KEY")


def test_an_address_that_fails_is_left_out_and_others_take_its_requests(
    dead_address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(double) as server:
        client = Client([dead_address, server.address], "reward", retries=1)
        assert ask(client, 6) == [0, 2, 4, 6, 8, 10]
        assert sorted(numbers(server.asked)) == list(range(6))
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and f"{dead_address} is skipped for now (connection refused)" in said[0]
    line = refusal(dead_address, server.address)
    assert f"{dead_address}: connection refused" in line and f"{server.address}: connection refused" in line


def test_a_server_that_hangs_holds_nothing_up_for_long() -> None:
    with serving(lambda payload, number: Reply(hang=60)) as hangs, serving(double) as server:
        client = Client([hangs.address, server.address], "reward", retries=8, timeout_seconds=0.3)
        started = time.monotonic()
        assert ask(client, 8) == [2 * number for number in range(8)]
        assert time.monotonic() - started < 10
        assert 0 < len(hangs.asked) <= 3 * 4, "three attempts for each of its requests"


def test_a_server_that_dies_midway_loses_nothing_and_little_is_asked_twice() -> None:
    def steady(payload: Any, number: int) -> Reply:
        return Reply(hang=0.05, body=json.dumps(double(payload, number)).encode())

    with serving(steady) as first, serving(steady) as second:
        client = Client([first.address, second.address], "reward", retries=1, concurrency=4)
        found = []
        for answer in client.answers("/double", [{"number": number} for number in range(40)], read):
            found.append(answer)
            if len(found) == 8:
                first.stop()
        assert found == [2 * number for number in range(40)]
        asked = Counter(numbers(first.asked) + numbers(second.asked))
        lost = [payload["number"] for _, payload in first.asked if payload not in first.answered]
        assert {number for number, times in asked.items() if times > 1} <= set(lost) and len(lost) <= 2
        assert second.answered and len(first.answered) < 20


def test_check_asks_each_address_once(dead_address: str) -> None:
    with serving(double) as server:
        client = Client([server.address, dead_address], "reward")
        client.check("/double", {"number": 1}, read)
        assert len(server.asked) == 1
    started = time.monotonic()
    with pytest.raises(UserError, match="no server answers"):
        Client([dead_address], "reward").check("/double", {"number": 1}, read)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        ([], "reward.addresses is empty"),
        (["localhost:8000"], "localhost:8000 is not a server address"),
        (["http://host:port"], "not a server address"),
        (["http://alice:secret@host:1"], "address 1 may hold a secret"),
        (["ftp://alice:secret@host"], "address 1 may hold a secret"),
        (["http://host:1", "http://host:1"], "is listed twice"),
    ],
)
def test_wrong_addresses_are_refused(addresses: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        Client(addresses, "reward")
    assert said in str(caught.value) and "alice" not in str(caught.value)


def test_servers_that_answered_before_are_a_temporary_obstacle_and_others_wrong_input(dead_address: str) -> None:
    assert not isinstance(caught_from(Client([dead_address], "reward", retries=0)), GoOnLater)
    with serving(double) as server:
        client = Client([server.address], "reward", retries=0)
        client.check("/double", {"number": 1}, read)
    lost = caught_from(client)
    assert isinstance(lost, GoOnLater) and "no server answers any more" in str(lost) and "\n" not in str(lost)


def caught_from(client: Client) -> UserError:
    with pytest.raises(UserError) as caught:
        ask(client, 1)
    return caught.value
