"""Tests of the page over HTTP with the real command: access, refusals, and answers kept when the server is killed."""

import contextlib
import json
import re
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from psychocounsel.errors import UserError
from psychocounsel.experts.page.forms import MOST_BYTES
from psychocounsel.experts.page.serving import _last_values, hold_review
from psychocounsel.experts.settings import read_review
from tests.support.harness import write_jsonl
from tests.support.reviewing import QUICK, Served, answers, item_of, pair, pairs_file, serving

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("review")
    file = pairs_file(folder, 8)
    file.write_text(file.read_text().replace("I am client 3,", f"I am {SCRIPT} client 3,"))
    return folder


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Served]:
    with serving(home / "pairs.jsonl", *QUICK, "review.overlap=1", "review.repeats=0") as found:
        yield found


def raw(served: Served, request: bytes) -> bytes:
    """Return the server's answer to these bytes."""
    where = urlsplit(served.links["e01"])
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        connection.sendall(request)
        found = b""
        while part := connection.recv(65536):
            found += part
    return found


def test_it_listens_on_loopback_alone(served: Served) -> None:
    assert {urlsplit(link).hostname for link in served.links.values()} == {"127.0.0.1"}
    port = urlsplit(served.links["e01"]).port
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    addresses = {fields[1] for fields in listening if fields[3] == "0A" and int(fields[1].split(":")[1], 16) == port}
    assert addresses == {f"0100007F:{port:04X}"}


def test_links_differ_and_cannot_be_guessed(served: Served) -> None:
    tokens = [urlsplit(link).path.strip("/") for link in served.links.values()]
    assert len(set(tokens)) == 2 and all(re.fullmatch(r"[\w-]{32}", token) for token in tokens)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/e01/",
        "/x/",
        "/x/answers",
        "/page.css",
        "/../../etc/passwd",
        "/x/../page.css",
        "/%2e%2e/answers.jsonl",
        "/docs",
        "/openapi.json",
        "/answers.jsonl",
    ],
)
def test_a_stranger_gets_nothing(served: Served, path: str) -> None:
    where = urlsplit(served.links["e01"])
    answer = raw(served, f"GET {path} HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404") and b"client" not in answer.lower().replace(b"client 3", b"")


@pytest.mark.parametrize(
    "below",
    [
        "../answers.jsonl",
        "..%2fanswers.jsonl",
        "page.css/../../links.json",
        "%2e%2e/%2e%2e/etc/passwd",
        "static/page.css",
        "item/../../events.jsonl/0",
        "item/0000000000000000/0",
        "item/x/2",
        "events.jsonl",
        "page.css%00",
    ],
)
def test_no_path_leads_to_a_file_or_to_another_item(served: Served, below: str) -> None:
    served.agree("e01")
    where = urlsplit(served.links["e01"])
    answer = raw(
        served, f"GET {where.path}{below} HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: close\r\n\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 404")


def test_another_name_for_this_machine_is_refused(served: Served) -> None:
    """A page of another site can point its own name to this address (DNS rebinding)."""
    with served.client("e01") as client:
        assert client.get("", headers={"Host": "evil.example"}).status_code == 404
        assert client.get("", headers={"Host": f"localhost:{client.base_url.port}"}).status_code == 200


def test_every_page_forbids_scripts_frames_and_keeping(served: Served) -> None:
    with served.client("e02") as client:
        for path in ("", "page.js", "nothing"):
            headers = client.get(path).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["referrer-policy"] == "no-referrer" and headers["cache-control"] == "no-store"
            assert "server" not in headers and "set-cookie" not in headers


def test_experts_see_their_own_items_and_answers_alone(served: Served, home: Path) -> None:
    first, second = served.agree("e01"), served.agree("e02")
    place = item_of(second.get("").text)
    assert first.get(place).status_code == 404
    assert first.post(place, data={"choice": "left"}).status_code == 404
    second.post(place, data={"choice": "left", "comment": "between us"})
    assert "Reply A is better" in second.get("answers").text
    for page in ("", "answers", place):
        assert "between us" not in first.get(page).text
    assert "between us" in second.get(place).text
    assert "You have not answered any item yet" in first.get("answers").text


def test_forms_that_are_too_long_or_no_forms_are_refused_and_change_nothing(served: Served, home: Path) -> None:
    client = served.agree("e02")
    place = item_of(client.get("").text)
    before = (home / "review" / "events.jsonl").read_text()
    for data in ({"choice": "left", "comment": "x" * MOST_BYTES}, {"choice": "x"}, {"choice": "left", "rater": "e01"}):
        refused = client.post(place, data=data)
        assert refused.status_code == 400 and "Not accepted" in refused.text
    assert client.post(place, json={"choice": "left"}).status_code == 400
    assert client.post(place, files={"choice": b"left"}).status_code == 400

    def endless() -> Iterator[bytes]:
        yield from (b"comment=" + b"x" * 10_000 for _ in range(50))

    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post(place, content=endless(), headers=kind).status_code == 400
    assert client.put(place).status_code == 404
    assert (home / "review" / "events.jsonl").read_text() == before


def test_what_clients_and_experts_write_stays_text(served: Served) -> None:
    pages = list[str]()
    for expert in ("e01", "e02"):
        client = served.agree(expert)
        for _ in range(4):
            page = client.get("").text
            if "Item" not in page:
                break
            pages.append(page)
            place = item_of(page)
            client.post(place, data={"choice": "tie", "comment": f"</textarea>{SCRIPT}"})
            pages.append(client.get(place).text)
    assert not any(SCRIPT in page for page in pages)
    assert any("I am &lt;script&gt;" in page for page in pages)
    assert any("&lt;/textarea&gt;&lt;script&gt;" in page for page in pages)


def test_a_killed_server_loses_no_answer_and_comes_back_at_the_same_links(tmp_path: Path) -> None:
    data = pairs_file(tmp_path, 6)
    with serving(data, *QUICK) as first:
        links = dict(first.links)
        client = first.agree("e01")
        for number in range(3):
            client.post(item_of(client.get("").text), data={"choice": "right", "comment": f"number {number}"})
        first.end(signal.SIGKILL)
    with serving(data) as again:  # the options of the first start are stored
        assert again.links == links and any("(3 of 7 answered)" in line for line in again.said)
        client = again.client("e01")
        assert "Item 4 of 7" in client.get("").text
        client.post(item_of(client.get("").text), data={"choice": "tie"})
        assert "The page is no longer served" in again.end(signal.SIGTERM) and again.process.returncode == 0
    rows = answers(tmp_path / "review")
    assert [row["comment"] for row in rows] == ["number 0", "number 1", "number 2", None]
    judged = [json.loads(line) for line in (tmp_path / "review" / "experts.jsonl").read_text().splitlines()]
    assert [row["better"] for row in judged] == ["b", "b", "b", "tie"]


def test_stored_options_hold_in_every_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my study #1: pairs"
    folder.mkdir()
    monkeypatch.chdir(folder)
    pairs_file(folder, 2)
    Path("consent.md").write_text("Do you agree?")
    line = ["data=pairs.jsonl", "experts=[e01]", "review.consent=consent.md", "review.rubric=builtin:en"]
    stored = _last_values([*line, "review.support=Call 1.", "review.consent=./consent.md"])
    monkeypatch.chdir(tmp_path)
    config = read_review(stored)
    assert (config.data, config.review.consent) == (f"{folder}/pairs.jsonl", f"{folder}/consent.md")
    assert (config.review.rubric, config.review.support) == ("builtin:en", "Call 1.")


def test_a_second_server_for_the_same_review_is_refused(home: Path, served: Served) -> None:
    with pytest.raises(AssertionError, match="is serving this review; stop it first"), serving(home / "pairs.jsonl"):
        pass


def test_a_folder_from_somebody_else_runs_no_program_however_its_options_are_written(tmp_path: Path) -> None:
    data, program = pairs_file(tmp_path, 4), f"[touch,{tmp_path}/ran]"
    (tmp_path / "review").mkdir()
    stored = [f"review={{contact: {{command: {program}}}}}", f"review[contact][command]={program}"]
    stored += [f"review.contact={{command: {program}}}", f"review[protocol]={tmp_path}/protocol"]
    (tmp_path / "review" / "overrides.txt").write_text("".join(f"{text}\n" for text in stored))
    with serving(data, *QUICK, "review.contact.name=Ada", "review.contact.reached_by=tel") as found:
        assert any("review.contact.command is not set" in line for line in found.said)
    assert not (tmp_path / "protocol").exists() and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("stored", "key"),
    [
        ("review.consent={secret}", "review.consent"),
        ("review={{consent: {secret}}}", "review.consent"),
        ("review[support]={secret}", "review.support"),
        ("review.rubric={folder}", "review.rubric"),
        ("review.only={secret}", "review.only"),
        ("review.consent={review}/link.md", "review.consent"),
        ("review.consent={review}/../secret.md", "review.consent"),
        ("review.address=https://evil.example/x", "review.address"),
        ("review={{address: https://evil.example/x}}", "review.address"),
    ],
)
def test_a_received_folder_shows_none_of_the_users_files_and_no_foreign_address(
    stored: str, key: str, tmp_path: Path
) -> None:
    data, review, secret = pairs_file(tmp_path, 2), tmp_path / "review", tmp_path / "secret.md"
    review.mkdir()
    secret.write_text("my secret")
    (review / "link.md").symlink_to(secret)
    (review / "overrides.txt").write_text(stored.format(secret=secret, folder=tmp_path, review=review) + "\n")
    with pytest.raises(UserError, match=rf"^{key}=.*no command of yours .*, type {key}=VALUE again$"):
        hold_review([f"data={data}", "experts=[e01]", *QUICK])
    assert {path.name for path in review.iterdir()} == {"link.md", "overrides.txt"}


def test_a_received_folder_may_hold_its_own_texts_and_stored_options_of_the_user_hold(tmp_path: Path) -> None:
    data, review = pairs_file(tmp_path, 2), tmp_path / "review"
    review.mkdir()
    (review / "consent.md").write_text("# From a colleague")
    (tmp_path / "mine.md").write_text("Call Ada.")
    (review / "overrides.txt").write_text(f"review.consent={review}/consent.md\n")
    address = "https://study.example/review"
    with serving(data, *QUICK, f"review.address={address}", f"review.support={tmp_path}/mine.md") as first:
        links = first.links
    with serving(data) as again:
        assert again.links == links and links["e01"].startswith(f"{address}/")
    with (review / "overrides.txt").open("a") as file:
        file.write("review.title=edited\n")
    with pytest.raises(UserError, match=r"^review\.support=.*type review\.support=VALUE again$"):
        hold_review([f"data={data}", "experts=[e01,e02]"])


@pytest.mark.parametrize("text", ["\u202e reversed", "\u05e9\u05dc\u05d5\u05dd, hello"])
def test_the_direction_of_a_text_ends_with_it(text: str, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "pairs.jsonl", [pair(1, prompt=text, chosen=text, rejected=f"{text}.")])
    with serving(data, *QUICK, f"review.title={text}") as found:
        client = found.agree("e01")
        page = client.get("").text
        client.post(item_of(page), data={"choice": "tie", "comment": text})
        for shown in (page, client.get("answers").text):
            inside = re.findall(rf"<(\S+)([^<>]*)>[^<>]*{text}", shown)
            assert inside and all(name in ("bdi", "title") or 'dir="auto"' in more for name, more in inside), inside


def test_behind_a_proxy_links_and_hosts_are_those_of_the_proxy(tmp_path: Path) -> None:
    address = "https://study.example/review"
    with serving(pairs_file(tmp_path, 4), *QUICK, f"review.address={address}", "review.port=0") as found:
        assert all(link.startswith(f"{address}/") for link in found.links.values())
        token = urlsplit(found.links["e01"]).path.rsplit("/", 2)[-2]
        options = (tmp_path / "review" / "overrides.txt").read_text()
        port = int(re.findall(r"review\.port=(\d+)", options)[0])
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/{token}/", trust_env=False) as proxy:
            page = proxy.get("", headers={"Host": "study.example"})
            assert page.status_code == 200 and 'href="./page.css"' in page.text and "127.0.0.1" not in page.text
            version = re.search(r'name="version" value="(\w+)"', page.text)
            assert version
            form = {"agree": "yes", "version": version[1]}
            moved = proxy.post("consent", data=form, headers={"Host": "study.example"})
            assert (moved.status_code, moved.headers["location"]) == (303, "./")
            assert proxy.get("", headers={"Host": "other.example"}).status_code == 404


def test_a_full_disk_takes_no_answer_and_loses_none(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    with serving(pairs_file(tmp_path, 6), *QUICK) as found:
        client, events = found.agree("e01"), tmp_path / "review" / "events.jsonl"
        client.post(item := item_of(client.get("").text), data={"choice": "left"})
        before = events.read_bytes()
        limit = len(before) + 20  # half an event fits
        resource.prlimit(found.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        refused = client.post(item_of(client.get("").text), data={"choice": "right"})
        assert refused.status_code == 500 and "Not saved" in refused.text and events.read_bytes() == before
        assert client.post(item, data={"choice": "tie"}).status_code == 500, "nor is a change taken"
        resource.prlimit(found.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert "Item 2 of" in client.get("").text
        assert client.post(item_of(client.get("").text), data={"choice": "right"}).status_code == 200
        assert found.end(signal.SIGTERM)
    assert [row["choice"] for row in answers(tmp_path / "review")] == ["left", "right"]


def _answer_until_killed(client: httpx.Client, acknowledged: list[str]) -> None:
    with contextlib.suppress(httpx.TransportError, AssertionError):
        while True:
            place = item_of(client.get("").text)
            client.post(place, data={"choice": "left", "comment": place}, follow_redirects=False)
            acknowledged.append(place)


@pytest.mark.slow
def test_kills_while_experts_answer_and_withdraw_lose_no_answer_and_keep_none(tmp_path: Path) -> None:
    """Five kills. Acknowledged answers are in the log, and at most one more; a withdrawal is whole or did not happen."""
    data, leavers = pairs_file(tmp_path, 300), [f"e{number:02}" for number in range(2, 7)]
    experts, acknowledged = f"[e01,{','.join(leavers)}]", list[str]()
    review = tmp_path / "review"
    for round_, leaver in enumerate(leavers):
        with serving(data, *QUICK, "review.repeats=0", experts=experts) as found:
            client, leaving = found.agree("e01"), found.agree(leaver)
            leaving.post(item_of(leaving.get("").text), data={"choice": "right", "comment": f"secret of {leaver}"})
            answering = threading.Thread(target=_answer_until_killed, args=(client, acknowledged))
            answering.start()
            left = threading.Thread(target=_withdraw_until_killed, args=(leaving,))
            left.start()
            time.sleep(0.01 * round_)
            found.process.kill()
            answering.join()
            left.join()
        events = [
            json.loads(line)
            for line in (review / "events.jsonl").read_text().splitlines(keepends=True)
            if line[-1] == "\n"
        ]
        saved = [event["comment"] for event in events if event["expert"] == "e01" and event["kind"] == "answer"]
        assert acknowledged == saved[: len(acknowledged)] and len(saved) <= len(acknowledged) + 1
        assert [event["kind"] for event in events if event["expert"] == leaver] in (
            ["consent", "answer"],
            ["withdrawn"],
        )
        acknowledged[:] = saved
    with serving(data, experts=experts) as found:
        for leaver in leavers:
            found.client(leaver).post("withdraw", data={"confirm": "withdraw"})
        assert found.end(signal.SIGTERM)
    assert "secret" not in "".join(path.read_text() for path in review.iterdir() if path.is_file())
    assert [row["comment"] for row in answers(review)] == acknowledged


def _withdraw_until_killed(client: httpx.Client) -> None:
    with contextlib.suppress(httpx.TransportError):
        client.post("withdraw", data={"confirm": "withdraw"})


def test_a_full_disk_withdraws_nobody_halfway(tmp_path: Path) -> None:
    with serving(pairs_file(tmp_path, 6), *QUICK) as found:
        client, events = found.agree("e01"), tmp_path / "review" / "events.jsonl"
        client.post(item_of(client.get("").text), data={"choice": "left", "comment": "secret"})
        before = events.read_bytes()
        resource.prlimit(found.process.pid, resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
        assert client.post("withdraw", data={"confirm": "withdraw"}).status_code == 500
        assert events.read_bytes() == before and "Item 2 of" in client.get("").text
        resource.prlimit(found.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert "You have withdrawn" in client.post("withdraw", data={"confirm": "withdraw"}).text
        assert "secret" not in events.read_text() + (tmp_path / "review" / "answers.jsonl").read_text()
        assert found.end(signal.SIGTERM)


def test_a_hundred_slow_readers_hold_up_nobody(served: Served) -> None:
    where = urlsplit(served.links["e01"])
    with contextlib.ExitStack() as slow:
        for number in range(100):  # half of them send no whole request, the others do not read the answer
            connection = slow.enter_context(socket.create_connection((where.hostname, where.port), timeout=10))
            end = b"" if number % 2 else b"\r\n"
            connection.sendall(f"GET {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\n".encode() + end)
        started = time.monotonic()
        assert served.client("e02").get("").status_code == 200
        assert time.monotonic() - started < 10  # milliseconds, if the machine is idle
