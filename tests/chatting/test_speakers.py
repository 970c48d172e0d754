"""Ctrl-C ends the replies that models are writing in a chat."""

import os
import signal
import threading
import time
from types import SimpleNamespace
from typing import Any, cast

from psychocounsel.asking.language_model import CUT, Answer
from psychocounsel.chatting.speakers import Speaker, Writing, stopping


def test_a_busy_machine_does_not_lose_an_interruption(monkeypatch: Any) -> None:
    """The handler outlasts the time between two looks at the queue, as it can on a busy machine."""
    monkeypatch.setattr("psychocounsel.chatting.speakers._LOOK", 0.01)
    silent = SimpleNamespace(name="silent", write=lambda conversation, show: time.sleep(30))
    writing = Writing([cast(Speaker, silent)], cast(Any, None))
    stop = writing.stopped.set
    writing.stopped.set = lambda: (time.sleep(0.1), stop())  # type: ignore[method-assign,assignment,return-value]
    with stopping(writing.stopped):
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        assert list(writing.events()) == [(0, Answer(CUT, ""))]
    assert time.monotonic() - began < 20
