"""Language models on servers with OpenAI's chat interface: hosted models, vLLM and Ollama."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from psychocounsel.asking.answer_text import shown_so_far, without_thoughts
from psychocounsel.asking.language_model import (
    CUT,
    FAILED,
    FILTERED,
    LONG_AT_FIRST,
    REFUSED,
    TEXT,
    TOO_LONG,
    Answer,
    Answerer,
    Ask,
    LanguageModel,
    Show,
)
from psychocounsel.asking.parties import is_own
from psychocounsel.data.control_tokens import messages_for_server
from psychocounsel.data.messages import Message
from psychocounsel.errors import UserError
from psychocounsel.remote.client import Client, Unanswered
from psychocounsel.remote.exchange import Refused
from psychocounsel.remote.server_access import check_addresses, check_key_variable
from psychocounsel.settings.schema import option

# Servers

_ROUTE = "/chat/completions"
_FILTER_WORDS = re.compile(r"content.?filter|content.?management.?polic|content.?policy|moderation|flagged", re.I)
_LENGTH_WORDS = re.compile(r"context.?length|maximum context|max_model_len|too long|too many tokens|input length", re.I)
_IN_CLOUD = re.compile(r"[-:]cloud\Z", re.I)  # gpt-oss:120b-cloud, glm-4.6:cloud
_OUR_FAULT = (401, 403, 404, 405)  # wrong API key, model or address: every request would fail
_MANY = 20  # consecutive refusals that end the run, because no single request can be their cause
_CHECK_TOKENS = 16
_CHECK_RETRIES = 5


@dataclass(kw_only=True)
class ChatServer(LanguageModel):
    """Any endpoint with the route `/chat/completions`.

    Each of `addresses` gets up to `concurrency` requests at once; all must serve the same model. `extra` adds keys to the
    request's body, and a null value removes a key: `{max_tokens: null, max_completion_tokens: 512}`.
    """

    addresses: list[str] = option([])
    key_variable: str | None = None
    concurrency: int = option(16, at_least=1)
    timeout_seconds: float = option(120.0, above=0, at_most=1_000_000)
    retries: int = option(8, at_least=0)
    extra: dict[str, Any] = option({})
    sends_schema: bool = True

    def open(self, key: str) -> Answerer:
        return _Chats(self, key)

    def identity(self) -> dict[str, Any]:
        """Return the base identity with `extra` and `sends_schema`. Addresses are left out, so they may change."""
        return super().identity() | {"extra": self.extra, "sends_schema": self.sends_schema}

    def sent(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return the messages with control tokens spelled apart, which the server would read as turns."""
        return messages_for_server(messages)

    def is_third_party(self) -> bool:
        """Return `third_party` if it is set; otherwise True if any address, or a proxy on the way, may belong to others.

        Models whose names end in `cloud` are third parties, because Ollama forwards their texts to its cloud.
        """
        if self.third_party is not None:
            return self.third_party
        return bool(_IN_CLOUD.search(self.model or "")) or not all(map(is_own, self.addresses))

    def receivers(self, key: str) -> list[tuple[str, str]]:
        """Return every address with its key."""
        return [(f"{key}.addresses", address) for address in self.addresses]

    def check(self, key: str) -> None:
        """Refuse invalid addresses, a missing model, and an API key given instead of the name of its variable."""
        check_addresses(self.addresses, f"{key}.addresses")
        check_key_variable(self.key_variable, f"{key}.key_variable")
        if not self.model:
            raise UserError(f"{key}.model is not set: give the name by which the server knows its model")


class _Chats(Answerer):
    """Sends Asks to the servers of `settings`, with one thread for each concurrent request."""

    def __init__(self, settings: ChatServer, key: str) -> None:
        settings.check(key)
        self.settings, self.key, self._stop = settings, key, threading.Event()
        workers = settings.concurrency * len(settings.addresses)
        self.slots = workers + max(4, workers // 2)  # a few Asks wait in line, so that no thread is idle
        self._threads = ThreadPoolExecutor(workers, "chat")
        self._refusals = self._submitted = self._too_long = 0
        self.client = Client(
            settings.addresses,
            key,
            timeout_seconds=settings.timeout_seconds,
            retries=settings.retries,
            concurrency=1,
            key_variable=settings.key_variable,
        )

    def submit(self, ask: Ask, seed: int) -> Future[Answer]:
        self._submitted += 1
        return self._threads.submit(self._answer, ask, seed, self._submitted <= LONG_AT_FIRST)

    def stream(self, ask: Ask, seed: int, show: Show) -> Answer:
        """Stream the answer as server-sent events, without retries. Without streaming, `show` is called once."""
        payload = self._payload(ask, seed) | {"stream": True}
        try:
            return read_stream(self.client.events(_ROUTE, payload), show, self.key, self.client.joined)
        except Refused as error:
            if _is_filtered(error):
                return Answer(FILTERED)
            if _is_long(error):
                return Answer(TOO_LONG)
            raise

    def check(self) -> None:
        """Send a request for a few tokens to every address."""
        hello = Ask("", ({"role": "user", "content": "Hello."},), 0, "check")
        payload = self._payload(hello, 0)
        longest = min(_CHECK_TOKENS, self.settings.max_tokens)
        payload |= {name: longest for name in ("max_tokens", "max_completion_tokens") if name in payload}
        self.client.check(_ROUTE, payload, read_completion, _CHECK_RETRIES)

    def close(self) -> None:
        """Wait for the requests under way, and send no more."""
        self._stop.set()
        self._threads.shutdown(cancel_futures=True)
        self.client.close()

    def _answer(self, ask: Ask, seed: int, is_first: bool) -> Answer:
        payload = self._payload(ask, seed)
        try:
            read = partial(read_completion, without_thoughts=ask.without_thoughts)
            answer = self.client.ask(_ROUTE, payload, read, self._stop, self.settings.concurrency)
        except Unanswered:
            return Answer(FAILED)
        except Refused as error:
            return self._refused(error, is_first)
        self._refusals, self.fitted = 0, True
        return answer

    def _refused(self, error: Refused, is_first: bool) -> Answer:
        """Return the answer for a request that the server refused.

        Raises:
            UserError: if every other request would be refused, too.
        """
        if _is_filtered(error):
            return Answer(FILTERED)
        self._refusals += not _is_long(error)
        if error.status in _OUR_FAULT or self._refusals >= _MANY:
            raise error
        if _is_long(error):
            self._too_long += is_first  # a server refuses at once, but answers late
            self.misfit = UserError(f"{error}; no prompt fits: choose a longer context")
            if not self.fitted and self._too_long >= LONG_AT_FIRST:
                raise self.misfit
        return Answer(FAILED)

    def _payload(self, ask: Ask, seed: int) -> dict[str, Any]:
        settings = self.settings
        payload: dict[str, Any] = {
            "model": settings.model,
            "messages": [*settings.sent(ask.messages)],
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_tokens,
            "seed": seed % (1 << 31),
        }
        if ask.schema is not None and settings.sends_schema:
            schema = {"name": "answer", "strict": True, "schema": {**ask.schema}}
            payload["response_format"] = {"type": "json_schema", "json_schema": schema}
        payload |= settings.extra
        return {name: value for name, value in payload.items() if value is not None}


def _is_filtered(error: Refused) -> bool:
    return bool(_FILTER_WORDS.search(error.answer)) and error.status in (400, 403, 422)


def _is_long(error: Refused) -> bool:
    return error.status == 413 or (error.status in (400, 422) and bool(_LENGTH_WORDS.search(error.answer)))


def read_completion(answer: Any, payload: Any, without_thoughts: Callable[[str], str] = without_thoughts) -> Answer:
    """Return the Answer in a chat completion; `without_thoughts` removes reasoning that the server left in its text.

    Raises:
        ValueError, KeyError, TypeError, ...: if the server's answer is not a chat completion.
    """
    choice, usage = answer["choices"][0], _usage(answer)
    message, reason = choice["message"], choice.get("finish_reason")
    text, refusal = _text_of(message.get("content")), message.get("refusal")
    outcome = {"content_filter": FILTERED, "length": CUT}.get(str(reason), REFUSED if refusal else TEXT)
    text = without_thoughts(text or (refusal if isinstance(refusal, str) else ""))
    return Answer(outcome, text, answer.get("model"), usage.get("prompt_tokens"), usage.get("completion_tokens"))


def _text_of(content: Any) -> str:
    """Return the text of a message; some servers give a list of parts, thoughts apart from the text."""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    if not isinstance(content, str | None):
        raise ValueError("the content of its message is not text")
    return content or ""


def _usage(answer: Any) -> dict[str, Any]:
    return usage if isinstance(usage := answer.get("usage"), dict) else {}


# Streamed completions: the events of OpenAI's interface with `stream: true`

Joined = Callable[[str, bool], str]


@dataclass
class _PartialAnswer:
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
            ValueError: if the event has another form (then also KeyError, TypeError, ...).
        """
        self.model = event.get("model") or self.model
        if usage := _usage(event):
            self.prompt_tokens, self.completion_tokens = (
                usage.get(name) for name in ("prompt_tokens", "completion_tokens")
            )
        for choice in event.get("choices") or ():
            part = choice.get("delta") or choice.get("message") or {}
            self.text += _text_of(part.get("content"))
            self.refusal += _text_of(part.get("refusal"))
            self.reason = choice.get("finish_reason") or self.reason

    def answer(self, stopped: bool, joined: Joined) -> Answer:
        outcome = {"content_filter": FILTERED, "length": CUT}.get(str(self.reason), REFUSED if self.refusal else TEXT)
        text = without_thoughts(joined(self.text or self.refusal, True))
        return Answer(CUT if stopped else outcome, text, self.model, self.prompt_tokens, self.completion_tokens)


def read_stream(events: Iterator[Any], show: Show, key: str, joined: Joined) -> Answer:
    """Return the Answer from a stream of `events`. `show` gets each new state of the text and may end the stream.

    `joined(text, is_complete)` removes the API key from the text of all events.

    Raises:
        UserError: for events of another form; the message begins with `key`.
    """
    written, stopped = _PartialAnswer(), False
    with closing(cast(Generator[Any, None, None], events)):
        for event in events:
            try:
                before = written.text + written.refusal
                written.take(event)
            except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
                reason = str(error) if isinstance(error, ValueError) else "it is of another form"
                raise UserError(f"{key}: the server's answer cannot be used: {reason}") from error
            now = written.text + written.refusal
            if now != before and not show(shown_so_far(joined(now, False))):
                stopped = True
                break
    return written.answer(stopped, joined)
