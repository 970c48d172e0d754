"""A model in a conversation, and replies that several of them write at the same time."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from psychocounsel.asking.language_model import CUT, FAILED, TOO_LONG, Answer, Answerer, Show
from psychocounsel.chatting.chat_histories import ChatHistories
from psychocounsel.errors import UserError

_LOOK = 0.1  # seconds between looks for a stop
_ENDING = 1.0  # seconds in which a stopped model may say its last; of a silent server the user does not wait for more

Event = str | Answer | Exception  # a reply so far, the whole of it, or why there is none


class Speaker:
    """An opened model. `left_out` counts the oldest turns of its history that do not fit it any more."""

    def __init__(self, name: str, answerer: Answerer) -> None:
        self.name, self.answerer, self.left_out, self.has_said_so = name, answerer, 0, False

    def write(self, conversation: ChatHistories, show: Show) -> Answer:
        """Reply to the last message, without the oldest turns if all of them are more than the model reads.

        Raises:
            UserError: if there is no reply, saying why.
        """
        turns = len(conversation.history(self.name)) // 2
        self.left_out = min(self.left_out, turns)
        while True:
            ask = conversation.ask(self.name, self.left_out)
            if self.left_out == turns or self.answerer.has_room(ask):
                answer = self.answerer.stream(ask, ask.seed, show)
                if answer.outcome == FAILED or (answer.outcome == TOO_LONG and self.left_out == turns):
                    raise UserError(f"{self.name}: has no reply to this message; it may be longer than the model reads")
                if answer.outcome != TOO_LONG:
                    return answer
            self.left_out += 1

    def forget(self) -> None:
        """Begin anew, with a conversation that fits."""
        self.left_out, self.has_said_so = 0, False

    def news(self) -> str:
        """What is to be said once: that turns are left out."""
        if not self.left_out or self.has_said_so:
            return ""
        self.has_said_so = True
        return "the conversation is longer than this model reads; from here on its oldest turns are left out"


class Writing:
    """The replies of all `speakers` to the last message, each written in a thread of its own."""

    def __init__(self, speakers: Sequence[Speaker], conversation: ChatHistories) -> None:
        self.stopped = threading.Event()
        self._texts = [""] * len(speakers)
        self._came: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
        for index, speaker in enumerate(speakers):
            threading.Thread(target=self._write, args=(index, speaker, conversation), daemon=True).start()

    def events(self) -> Iterator[tuple[int, Event]]:
        """A speaker's number and what came of its reply, until each has an end.

        Soon after `stopped` is set all replies end with what there is; what a silent server sends later is thrown away.
        """
        ahead, until = set(range(len(self._texts))), float("inf")
        while ahead:
            if self.stopped.is_set():
                until = min(until, time.monotonic() + _ENDING)
            try:
                index, event = self._came.get(timeout=_LOOK)
            except queue.Empty:
                if time.monotonic() > until:
                    yield from ((index, Answer(CUT, self._texts[index])) for index in sorted(ahead))
                    return
                continue
            ahead -= {index} if not isinstance(event, str) else set()
            yield index, event

    def _write(self, index: int, speaker: Speaker, conversation: ChatHistories) -> None:
        def show(text: str) -> bool:
            if not self.stopped.is_set():
                self._texts[index] = text
                self._came.put((index, text))
            return not self.stopped.is_set()

        try:
            self._came.put((index, speaker.write(conversation, show)))
        except Exception as error:
            self._came.put((index, error))


@contextmanager
def stopping(stopped: threading.Event) -> Iterator[None]:
    """While the block runs, Ctrl-C sets `stopped`, and a second time raises KeyboardInterrupt."""

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
