"""`psychocounsel.chat` in a pseudo-terminal: edited and pasted lines, Ctrl-C, and columns."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.chats import rows, served
from tests.support.streaming import streaming

_SEQUENCES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_WITHOUT_READLINE = "import sys; sys.modules['readline'] = None; import runpy; sys.argv[0] = 'chat'; "
_WITHOUT_READLINE += "runpy.run_module('psychocounsel.chat', run_name='__main__')"


class Terminal:
    """A command in a pseudo-terminal of 100 columns; `shown` is its output without control sequences."""

    def __init__(self, folder: Path, *overrides: str, program: tuple[str, ...] = ("-m", "psychocounsel.chat")) -> None:
        self.end, inner = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30", "NO_PROXY": "127.0.0.1"}
        self.process = subprocess.Popen(
            [sys.executable, *program, *overrides, "reward=null"],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        os.close(inner)
        self.shown = ""

    def until(self, words: str) -> str:
        """Wait until `words` appear; returns the output up to them, and discards it."""
        ends = time.monotonic() + 60
        while words not in self.shown:
            assert time.monotonic() < ends, f"{words!r} is not in {self.shown!r}"
            if select.select([self.end], [], [], 0.2)[0]:
                try:
                    came = os.read(self.end, 4096).decode(errors="replace")
                except OSError:  # the other end is closed
                    came = ""
                assert came, f"it ended: {self.shown!r}"
                self.shown += _SEQUENCES.sub("", came).replace("\r", "")
        before, _, self.shown = self.shown.partition(words)
        return before + words

    def type(self, text: str) -> None:
        os.write(self.end, text.encode())

    def interrupt(self) -> None:
        """Send Ctrl-C to the foreground command, as a terminal does."""
        time.sleep(0.3)  # readline handles signals only a moment after it prints its prompt
        self.process.send_signal(signal.SIGINT)

    def close(self) -> int:
        code = self.process.wait(30)
        os.close(self.end)
        return code


def endless(payload: Any) -> Iterator[str]:
    """Answer "go" with an endless reply, and anything else with the model's name."""
    if payload["messages"][-1]["content"] != "go":
        yield f"{payload['model']} has read it."
        return
    yield "Once upon a time"
    while True:
        time.sleep(0.02)
        yield " and"


def test_lines_blocks_pasted_text_and_mistakes(tmp_path: Path) -> None:
    with streaming(endless) as server:
        terminal = Terminal(tmp_path, served(server.address))
        notice = terminal.until("you> ")
        assert "not a therapist" in notice and "local emergency number" in notice
        for typed in ("one\\\rtwo\r", '"""\rthree\r\rfour\r"""\r', "\x1b[200~five\nsix\x1b[201~\r"):
            terminal.type(typed)
            terminal.until("served> served has read it.")
            terminal.until("you> ")
        terminal.type("/agian\r")
        assert "did you mean /again?" in terminal.until("you> ")
        terminal.type("/system null\r")
        terminal.until("you> ")
        terminal.type("\x04")
        assert terminal.close() == 0
    last = [payload["messages"][-1]["content"] for payload in server.asked]
    assert last == ["one\ntwo", "three\n\nfour", "five\nsix"]
    assert not list(tmp_path.iterdir())


def test_pasted_lines_are_one_message_without_readline_too(tmp_path: Path) -> None:
    with streaming(endless) as server:
        terminal = Terminal(tmp_path, served(server.address), program=("-c", _WITHOUT_READLINE))
        terminal.until("you> ")
        terminal.type("one\ntwo\nthree\n")
        terminal.until("served has read it.")
        terminal.until("you> ")
        terminal.type("/quit\n")
        assert terminal.close() == 0
    assert [payload["messages"][-1]["content"] for payload in server.asked] == ["one\ntwo\nthree"]


def test_interrupting_keeps_what_has_come_and_twice_leaves(tmp_path: Path) -> None:
    with streaming(endless) as server:
        terminal = Terminal(tmp_path, served(server.address), "transcript=talk.jsonl")
        terminal.until("you> ")
        terminal.type("go\r")
        terminal.until("upon a time and and")
        terminal.interrupt()
        assert "stopped" in terminal.until("you> ")
        assert server.broken.wait(10), "the request has ended"
        (row,) = rows(tmp_path / "talk.jsonl")
        assert (
            row["replies"][0]["text"].startswith("Once upon a time and") and row["replies"][0]["outcome"] == "stopped"
        )
        terminal.type("what now\r")
        terminal.until("served has read it.")
        terminal.until("you> ")
        kept = server.asked[-1]["messages"][-2]
        assert kept == {"role": "assistant", "content": row["replies"][0]["text"]}, "the model knows what it has said"
        terminal.interrupt()
        terminal.until("Ctrl-C again leaves")
        terminal.until("you> ")
        terminal.interrupt()
        assert terminal.close() == 0


def test_a_silent_server_does_not_hold_up_an_interruption(tmp_path: Path) -> None:
    def silent(payload: Any) -> Iterator[str]:
        yield ""
        time.sleep(20)

    with streaming(silent) as server:
        terminal = Terminal(tmp_path, served(server.address))
        terminal.until("you> ")
        terminal.type("hello\r")
        terminal.until("served> ")
        began = time.monotonic()
        terminal.interrupt()
        terminal.until("you> ")
        assert time.monotonic() - began < 10
        terminal.interrupt()
        assert terminal.close() == 0, "the second one leaves"


def test_two_models_stand_side_by_side(tmp_path: Path) -> None:
    with streaming(endless) as server:
        against = f"against=[{{path: '{server.address}', model: other}}]"
        terminal = Terminal(tmp_path, served(server.address), against)
        terminal.until("you> ")
        terminal.type("hello\r")
        shown = terminal.until("you> ")
        assert re.search(r"served has read it\. {5,}other has read it\.", shown)
        terminal.type("go\r")
        terminal.until("Once upon a time")
        terminal.interrupt()
        terminal.until("you> ")
        terminal.type("/quit\r")
        assert terminal.close() == 0
