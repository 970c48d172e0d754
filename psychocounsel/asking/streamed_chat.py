"""Reads a streamed chat completion: the events of OpenAI's interface with `stream: true`."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, cast

from psychocounsel.asking.language_model import CUT, FILTERED, REFUSED, TEXT, Answer, Show
from psychocounsel.asking.thoughts import shown_so_far, without_thoughts
from psychocounsel.errors import UserError, words


@dataclass
class _Written:
    """The parts of an answer that have arrived so far."""

    text: str = ""
    refusal: str = ""
    reason: str | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def take(self, event: Any) -> None:
        """Add an event.

        Raises:
            ValueError: if the event reports an error or has another form (then also KeyError, TypeError, ...).
        """
        if event.get("error"):
            said = event["error"]
            said = said.get("message", "") if isinstance(said, dict) else said
            raise ValueError(f"it breaks off ({words(' '.join(str(said).split())[:200])})")
        self.model = event.get("model") or self.model
        if usage := event.get("usage"):
            self.prompt_tokens, self.completion_tokens = (
                usage.get(name) for name in ("prompt_tokens", "completion_tokens")
            )
        for choice in event.get("choices") or ():
            part = choice.get("delta") or choice.get("message") or {}
            for name, value in (("text", part.get("content")), ("refusal", part.get("refusal"))):
                if not isinstance(value, str | None):
                    raise ValueError("the content of its message is not text")
                setattr(self, name, getattr(self, name) + (value or ""))
            self.reason = choice.get("finish_reason") or self.reason

    def answer(self, stopped: bool) -> Answer:
        outcome = {"content_filter": FILTERED, "length": CUT}.get(str(self.reason), REFUSED if self.refusal else TEXT)
        text = without_thoughts(self.text or self.refusal)
        text = text.encode("utf-8", errors="replace").decode()  # JSON may hold lone surrogates
        return Answer(CUT if stopped else outcome, text, self.model, self.prompt_tokens, self.completion_tokens)


def read_stream(events: Iterator[Any], show: Show, key: str) -> Answer:
    """Return the Answer from a stream of `events`. `show` gets each new state of the text and may end the stream.

    Raises:
        UserError: for events of another form, or an event that reports an error; the message begins with `key`.
    """
    written, stopped = _Written(), False
    with closing(cast(Generator[Any, None, None], events)):
        for event in events:
            try:
                before = written.text + written.refusal
                written.take(event)
            except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
                reason = str(error) if isinstance(error, ValueError) else "it is of another form"
                raise UserError(f"{key}: the server's answer cannot be used: {reason}") from error
            now = written.text + written.refusal
            if now != before and not show(shown_so_far(now)):
                stopped = True
                break
    return written.answer(stopped)
