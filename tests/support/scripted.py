"""OpenAI-compatible server on the loopback interface that answers by rules and fails at given rates.

An answer depends only on the request, so that runs can be compared. A fault is drawn at random for each attempt.
`python -m tests.support.scripted LATENCY` starts a fast server in its own process and prints its address.
"""

import asyncio
import hashlib
import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.answering import Reply

Write = Callable[[Any], str]


def number_of(payload: Any) -> int:
    """Return a number computed from a hash of the request."""
    return int(hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()[:12], 16)


def reply_text(payload: Any) -> str:
    """Return a short text that differs between requests."""
    return f"It sounds as if this has been heavy for you. {number_of(payload):012x}"


def completion(text: str | None, payload: Any, reason: str = "stop", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": reason}
    usage = {"prompt_tokens": 50, "completion_tokens": 20}
    return {"model": f"{payload['model']}-2026", "choices": [choice], "usage": usage}


@dataclass
class Script:
    """Rules of the server. `write` gives the text of an answer.

    The rates `refusal`, `filtered` and `cut` are shares of requests; all other rates are shares of attempts.
    """

    write: Write = reply_text
    busy: float = 0.0  # 429
    error: float = 0.0  # 500
    hang: float = 0.0
    drop: float = 0.0
    broken: float = 0.0  # JSON that ends midway
    refusal: float = 0.0
    filtered: float = 0.0
    cut: float = 0.0
    latency: float = 0.0
    seconds_of_a_hang: float = 5.0
    drawn: random.Random = field(default_factory=lambda: random.Random(0))

    def __call__(self, payload: Any, number: int) -> Any:
        place = self.drawn.random()
        for rate, reply in self._faults():
            if place < rate:
                return reply
            place -= rate
        return (
            Reply(200, json.dumps(self.answer(payload)).encode(), hang=self.latency) if self._ok(payload) else self.no
        )

    def answer(self, payload: Any) -> dict[str, Any]:
        share = number_of(payload) % 1000 / 1000
        if share < self.refusal:
            return completion(None, payload, refusal="I will not.")
        if share < self.refusal + self.cut:
            return completion("It sounds as if", payload, "length")
        return completion(self.write(payload), payload)

    def _ok(self, payload: Any) -> bool:
        share = number_of(payload) % 1000 / 1000
        return not 1 - self.filtered <= share

    @property
    def no(self) -> Reply:
        return Reply(400, b'{"error": {"message": "Blocked by our policy", "code": "content_filter"}}')

    def _faults(self) -> list[tuple[float, Reply]]:
        return [
            (self.busy, Reply(429, Retry_After="0.05")),
            (self.error, Reply(500)),
            (self.hang, Reply(hang=self.seconds_of_a_hang)),
            (self.drop, Reply(drop=True)),
            (self.broken, Reply(200, b'{"choices": [{"mess')),
        ]


async def _serve(latency: float) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.split("content-length: ")[1].split("\r\n")[0])
                payload = json.loads(await reader.readexactly(length))
                await asyncio.sleep(latency)
                body = json.dumps(completion(reply_text(payload), payload)).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
