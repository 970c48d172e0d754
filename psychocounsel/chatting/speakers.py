"""Models in a conversation, which write their replies at the same time."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from psychocounsel.asking.language_model import CUT, FAILED, TOO_LONG, Answer, Answerer, Show
from psychocounsel.chatting.histories import ChatHistories
from psychocounsel.errors import UserError

_LOOK = 0.1  # seconds between checks for a stop request
_ENDING = 1.0  # seconds that a stopped reply may take to end; then a silent server is no longer waited for

Event = str | Answer | Exception  # the text so far, the complete answer, or the error


class Speaker:
    """An opened model. `left_out` is the number of oldest turns that no longer fit its context."""

    def __init__(self, name: str, answerer: Answerer) -> None:
        self.name, self.answerer, self.left_out, self.has_told = name, answerer, 0, False

    def write(self, conversation: ChatHistories, show: Show) -> Answer:
        """Reply to the last message; if the conversation does not fit the model, the oldest turns are dropped.

        Raises:
            UserError: if there is no reply; says why.
        """
        turns = len(conversation.history(self.name)) // 2
        self.left_out = min(self.left_out, turns)
        while True:
            ask = conversation.ask(self.name, self.left_out)
            if self.left_out == turns or self.answerer.has_room(ask):
                answer = self.answerer.stream(ask, ask.seed, show)
                if answer.outcome == FAILED or (answer.outcome == TOO_LONG and self.left_out == turns):
                    raise UserError(
                        f"{self.name}: gave no reply: the request failed, or the message is too long for the model"
                    )
                if answer.outcome != TOO_LONG:
                    return answer
            self.left_out += 1

    def forget(self) -> None:
        """Reset the model's state for a new conversation."""
        self.left_out, self.has_told = 0, False

    def notice(self) -> str:
        """Return a note the first time that turns were dropped, otherwise an empty text."""
        if not self.left_out or self.has_told:
            return ""
        self.has_told = True
        return "the conversation is too long for this model; from now on it does not see the oldest turns"


class Writing:
    """The replies of all `speakers` to the last message, each written in its own thread."""

    def __init__(self, speakers: Sequence[Speaker], conversation: ChatHistories) -> None:
        self.stopped = threading.Event()
        self._texts = [""] * len(speakers)
        # SimpleQueue.get(timeout=...) would wait for ever if Ctrl-C's handler took longer than the timeout.
        self._events: queue.Queue[tuple[int, Event]] = queue.Queue()
        for index, speaker in enumerate(speakers):
            threading.Thread(target=self._write, args=(index, speaker, conversation), daemon=True).start()

    def events(self) -> Iterator[tuple[int, Event]]:
        """Yield (index of the speaker, event) until every reply has ended.

        Soon after `stopped` is set, all replies end with their text so far; later output of a slow server is discarded.
        """
        ahead, until = set(range(len(self._texts))), float("inf")
        while ahead:
            if self.stopped.is_set():
                until = min(until, time.monotonic() + _ENDING)
            try:
                index, event = self._events.get(timeout=_LOOK)
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
                self._events.put((index, text))
            return not self.stopped.is_set()

        try:
            self._events.put((index, speaker.write(conversation, show)))
        except Exception as error:
            self._events.put((index, error))


@contextmanager
def stopping(stopped: threading.Event) -> Iterator[None]:
    """Inside the block, the first Ctrl-C sets `stopped`, and the second raises KeyboardInterrupt."""

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
