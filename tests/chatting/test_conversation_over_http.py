"""`psychocounsel.chat` in a pipe sends, shows, undoes and saves messages; a streaming server on loopback replies."""

import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from psychocounsel import api
from psychocounsel.errors import UserError
from tests.support.chats import converse, rows, served, texts
from tests.support.streaming import streaming

ONE, TWO = "I cannot sleep.", "It began in spring."


@pytest.fixture(autouse=True)
def _place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)


def echo(payload: Any) -> Iterator[str]:
    """Send a reply that names model and seed, word by word."""
    yield from (payload["model"], " says ", str(payload["seed"]))


def said(payload: Any) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in payload["messages"] if message["role"] != "system"]


def test_a_reply_is_shown_before_it_ends() -> None:
    """The server sends the second half only after the client has printed the first."""
    read = threading.Event()

    def pieces(payload: Any) -> Iterator[str]:
        yield "The first half, "
        assert read.wait(30)
        yield "and the second."

    with streaming(pieces) as server:
        command = [sys.executable, "-m", "psychocounsel.chat", served(server.address), "reward=null"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{ONE}\n")
        process.stdin.close()
        shown = ""
        while "first half," not in shown:
            shown += os.read(process.stdout.fileno(), 64).decode()
        assert "second" not in shown
        read.set()
        assert shown + process.stdout.read() == "served> The first half, and the second.\n"
        assert process.wait(30) == 0


def test_each_model_has_a_history_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with streaming(echo) as server:
        against = f"against=[{{path: '{server.address}', model: other}}]"
        lines = f"{ONE}\n\n{TWO}\n"
        assert converse(monkeypatch, lines, served(server.address, "mine"), against, "replies.seed=7") == 0
    asked = {(payload["model"], len(payload["messages"])): payload for payload in server.asked}
    assert len(asked) == len(server.asked) == 4
    for name in ("mine", "other"):
        assert said(asked[name, 2]) == [("user", ONE)]
        assert said(asked[name, 4]) == [("user", ONE), ("assistant", f"{name} says 7"), ("user", TWO)]
        assert asked[name, 4]["seed"] == 8 and asked[name, 4]["messages"][0]["role"] == "system"
    shown = "mine> mine says {0}\nother> other says {0}\n"
    assert capsys.readouterr().out == shown.format(7) + shown.format(8)


def test_again_takes_another_seed_and_undo_takes_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = [ONE, "/save a.jsonl", "/again", "/save b.jsonl", "/undo", "/save c.jsonl", "/again", "/save d.jsonl"]
    commands += ["/undo", "/undo", ONE, "/save e.jsonl"]
    with streaming(echo) as server:
        assert converse(monkeypatch, "\n".join(commands), served(server.address)) == 0
    first, again = ["served says 0"], ["served says 1000003"]
    assert [texts(Path(f"{name}.jsonl")) for name in "abcde"] == [first, again, first, again, first]
    assert {len(payload["messages"]) for payload in server.asked} == {2}, "messages that were undone are not sent"


def test_the_system_prompt_is_shown_changed_and_taken_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "brief").write_text("Answer in one word.\n")
    commands = (
        f"/system\n{ONE}\n/system brief\n{TWO}\n/system\n/system null\n/system\n{ONE}\n/new\n/system Be kind.\n{ONE}\n"
    )
    with streaming(echo) as server:
        assert converse(monkeypatch, commands, served(server.address), "replies.system_prompt=Listen.") == 0
    prompts = [message["content"] for payload in server.asked for message in payload["messages"][:1]]
    assert prompts == ["Listen.", "Answer in one word.", ONE, "Be kind."]
    assert [len(said(payload)) for payload in server.asked] == [1, 3, 5, 1], "/new forgets"
    out = capsys.readouterr().out
    assert out.startswith("Listen.\n") and "\nAnswer in one word.\n" in out and "\nthere is no system prompt\n" in out


def test_an_undone_reply_takes_its_system_prompt_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of an editor of Windows begins with a byte order mark, which is no part of the first command."""
    commands = f"\ufeff/system Listen.\n{ONE}\n/system Be kind.\n/again\n/save a.jsonl\n/undo\n/save b.jsonl\n"
    with streaming(echo) as server:
        assert converse(monkeypatch, commands, served(server.address)) == 0
    assert [payload["messages"][0]["content"] for payload in server.asked] == ["Listen.", "Be kind."]
    assert [row["system_prompt"] for name in "ab" for row in rows(Path(f"{name}.jsonl"))] == ["Be kind.", "Listen."]


def test_messages_of_several_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = 'first\\\nsecond\\\nthird\n"""\n/quit\n\nis no command here\n"""\n /as here\n"""\nan open block\nends with the input'
    with streaming(echo) as server:
        assert converse(monkeypatch, lines, served(server.address)) == 0
    last = [payload["messages"][-1]["content"] for payload in server.asked]
    assert last == [
        "first\nsecond\nthird",
        "/quit\n\nis no command here",
        "/as here",
        "an open block\nends with the input",
    ]


def test_a_transcript_is_private_new_and_follows_the_conversation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with streaming(echo) as server:
        options = [served(server.address), "transcript=talk.jsonl"]
        assert converse(monkeypatch, f"{ONE}\n{TWO}\n/undo\n/save talk.md\n", *options) == 0
        assert [row["message"] for row in rows(Path("talk.jsonl"))] == [ONE]
        (row,) = rows(Path("talk.jsonl"))
        assert row["replies"] == [
            {
                "model": "served",
                "text": "served says 0",
                "outcome": "text",
                "seed": 0,
                "reward": {},
                "ratings": {},
                "checks": [],
            }
        ]
        assert Path("talk.md").read_text() == f"## you\n\n{ONE}\n\n## served\n\nserved says 0\n"
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(UserError, match=r"transcript=talk\.jsonl: exists already and is not overwritten"):
            converse(monkeypatch, ONE, *options)
        with pytest.raises(UserError, match=r"/save talk\.md: exists already"):
            converse(monkeypatch, f"{ONE}\n/save talk.md\n", options[0])
        os.symlink(tmp_path / "nowhere", tmp_path / "link.md")
        with pytest.raises(UserError, match=r"/save link\.md: exists already"):
            converse(monkeypatch, f"{ONE}\n/save link.md\n", options[0])
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if not path.is_symlink()} == before


def test_a_new_conversation_leaves_the_ones_before_in_the_transcript(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("talk.jsonl", "talk.md"):
        with streaming(echo) as server:
            talk = f"{ONE}\n/new\n{TWO}\n/new\n"
            assert converse(monkeypatch, talk, served(server.address), f"transcript={name}") == 0
    assert [(row["conversation"], row["message"]) for row in rows(Path("talk.jsonl"))] == [(1, ONE), (2, TWO)]
    assert f"\n# conversation 2\n\n## you\n\n{TWO}\n" in Path("talk.md").read_text()


def test_nothing_is_written_unless_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with streaming(echo) as server:
        assert converse(monkeypatch, f"{ONE}\n/again\n/new\n{TWO}\n", served(server.address)) == 0
    assert not list(tmp_path.iterdir())


def test_the_oldest_turns_are_left_out_when_the_server_says_that_they_are_too_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = {"error": {"message": "This model's maximum context length is 64 tokens."}}

    def pieces(payload: Any) -> Any:
        return refusal if len(payload["messages"]) > 4 else ["Yes."]

    with streaming(pieces) as server:
        assert converse(monkeypatch, "a\nb\nc\nd\n", served(server.address)) == 0
    answered = [said(payload) for payload in server.asked if len(payload["messages"]) <= 4]
    heard = [[text for role, text in messages if role == "user"] for messages in answered]
    assert heard == [["a"], ["a", "b"], ["b", "c"], ["c", "d"]]
    assert capsys.readouterr().out.count("it does not see the oldest turns") == 1
    with streaming(lambda payload: refusal) as server, pytest.raises(UserError, match="or the message is too long for"):
        converse(monkeypatch, "a\n", served(server.address))


def test_what_fails_ends_a_pipe_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for line, words in [
        ("/agian", "/agian: unknown command; did you mean /again?"),
        ("/QUIT", "/QUIT: unknown command; did you mean /quit?"),
        ("/x", "/x: unknown command; /help lists them"),
        ("/again", "/again: there is no reply yet"),
        ("/undo", "/undo: there is nothing to undo"),
        ("/save", "/save: needs a file"),
        ("/save talk.md", "/save: there is nothing to save yet"),
        ("/new now", "/new: takes no argument"),
    ]:
        with streaming(echo) as server, pytest.raises(UserError, match=f"^{re.escape(words)}"):
            converse(monkeypatch, line, served(server.address))
    broken = {"error": {"message": "no such template"}}
    with (
        streaming(lambda payload: broken) as server,
        pytest.raises(UserError, match=r"refuses: status 400 .*no such template"),
    ):
        converse(monkeypatch, ONE, served(server.address))


def test_endpoints_of_others_must_be_allowed_and_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with streaming(echo) as server:
        model = f"model={{path: '{server.address}', model: served, third_party: true}}"
        with pytest.raises(UserError, match=r"^model: served sends what you write to 127\.0\.0\.1, .*add crisis_to"):
            converse(monkeypatch, ONE, model)
        assert not server.asked
        assert converse(monkeypatch, ONE, model, "crisis_to_third_parties=true") == 0
    notice = capsys.readouterr().err
    assert "not a therapist" in notice and "local emergency number" in notice and "match words" in notice
    assert "served: your messages are sent to 127.0.0.1" in notice
    assert not re.search(r"\d{3}", notice.replace("127.0.0.1", "")), "no telephone number"


def test_a_model_is_named_by_the_file_that_says_how_it_is_asked() -> None:
    hosted = api.compose(["model.use=openai", "model.model=large", "crisis_to_third_parties=true"], name="chat")
    assert [member.model for member in hosted.contestants.members] == ["large"]
    assert "reward" not in hosted, "the shipped reward model is for shipped models"
    shipped = api.compose([], name="chat")
    assert [member.model for member in shipped.contestants.members] == ["builtin:tiny_dpo"]
    assert shipped.reward.path == "builtin:tiny_reward"


def test_a_reply_steers_no_terminal_and_thoughts_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with streaming(
        lambda payload: ["<thi", "nk>They", " ask.</think>\n\n", "A \x1b[2Jred", " \ud83d herring."]
    ) as server:
        assert converse(monkeypatch, ONE, served(server.address)) == 0
    assert capsys.readouterr().out == "served> A \ufffd[2Jred \ufffd herring.\n"
