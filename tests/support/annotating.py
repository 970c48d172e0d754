"""Speeches, and a server whose replies and ratings depend only on the request, for tests of the whole `annotate` command."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psychocounsel.counsel.principles import PRINCIPLES
from tests.support.answering import Server, serving
from tests.support.harness import write_jsonl

_WORDS = [
    "river",
    "garden",
    "winter",
    "letter",
    "kitchen",
    "station",
    "uncle",
    "morning",
    "window",
    "lesson",
    "market",
    "brother",
    "silence",
    "harbour",
    "ticket",
]


def speeches(path: Path, count: int, mark: str = "") -> Path:
    """Write a file of `count` speeches, no two of them near duplicates."""
    rows = []
    for number in range(count):
        digest = hashlib.sha256(str(number).encode()).digest()
        story = " ".join(_WORDS[byte % len(_WORDS)] + str(byte) for byte in digest[:20])
        rows.append(
            {
                "text": f"I cannot sleep {mark} since the {story}, and I do not know whom I could tell about it.",
                "risk": "none",
            }
        )
    return write_jsonl(path, rows)


def _number(text: str, of: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % of


def answer(payload: Any) -> dict[str, Any]:
    """Return a chat completion that depends on messages and model name. If a schema is requested, it is a rating in JSON."""
    asked = json.dumps([payload["model"], payload["messages"]])
    if "response_format" in payload:
        words = re.findall(r"\w+", payload["messages"][-1]["content"])
        text = json.dumps(
            {
                name: {"quote": "absent", "reason": f"{words[-1]}.", "rating": 1 + _number(asked + name, 5)}
                for name in PRINCIPLES
            }
        )
    else:
        text = f"You carry a {_WORDS[_number(asked, len(_WORDS))]}. What would {_number(asked, 10**6)} ask of you?"
    usage = {"prompt_tokens": len(asked) // 4, "completion_tokens": len(text) // 4}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return {"id": "x", "object": "chat.completion", "model": "served-name", "choices": [choice], "usage": usage}


@contextmanager
def model_server(seconds: float = 0.0, change: Callable[[Any, int], Any] | None = None) -> Iterator[Server]:
    """Serve answers that take `seconds` each. If `change(payload, number)` does not return None, its result is the answer."""

    def respond(payload: Any, number: int) -> Any:
        time.sleep(seconds)
        other = change(payload, number) if change else None
        return answer(payload) if other is None else other

    with serving(respond) as server:
        yield server


def models(server: Server, writers: int = 2) -> list[str]:
    """Return the overrides for this number of writers and one annotator at the server."""
    members = ",".join(f"{{use: local_vllm, terms: apache-2.0, model: writer{number}}}" for number in range(writers))
    address = f"[{server.address}/v1]"
    given = [f"writers.members=[{members.replace('model:', f'addresses: {address}, model:')}]"]
    return ["writers=pool", *given, "annotator=local_vllm", "annotator.model=rater", f"annotator.addresses={address}"]


def calls(server: Server) -> list[str]:
    """Return one text per answered call, without the requests that check the server before the first call."""
    asked = [payload for payload in server.answered if payload["messages"][-1]["content"] != "Hello."]
    return [json.dumps([each["model"], each["messages"], each.get("seed")]) for each in asked]


def tables(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Return all rows of all tables of a dataset. A split without pairs has no table; its rows are []."""
    import pyarrow.parquet as pq

    names = ("speeches", "replies", "votes", "dataset/train", "dataset/test")
    found = {name: out / f"{name}.parquet" for name in names}
    return {name: pq.read_table(path).to_pylist() if path.exists() else [] for name, path in found.items()}
