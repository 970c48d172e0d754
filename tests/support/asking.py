"""Helpers for tests of asking: settings of a chat server, Asks, and a directory with speeches."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from psychocounsel.asking.answers import Answers, Outcome
from psychocounsel.asking.asker import ask_all
from psychocounsel.asking.budget import Budget
from psychocounsel.asking.chat_server import ChatServer
from psychocounsel.asking.language_model import Ask, LanguageModel
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.steps.course import StepContext


def chat(address: str | list[str], name: str = "served", **settings: Any) -> ChatServer:
    addresses = [address] if isinstance(address, str) else address
    settings = {"timeout_seconds": 10.0, "concurrency": 8, "max_tokens": 64, **settings}
    return ChatServer(name=name, model=name, addresses=addresses, **settings)


def question(number: int, part: str = "reply 0") -> Ask:
    return Ask(f"{number:016x}", ({"role": "user", "content": f"Speech {number}."},), number, part)


def asked(
    model: LanguageModel,
    asks: list[Ask],
    folder: Path,
    budget: Budget | None = None,
    read: Any = str,
    retries: int = 2,
) -> dict[str, Outcome[Any]]:
    """Return the outcome of each Ask, by speech. No two Asks may have the same speech."""
    answers = Answers(folder)
    found: dict[str, Outcome[Any]] = {}
    try:
        came = ask_all(
            ((model, ask) for ask in asks),
            answers,
            budget or Budget(),
            read=read,
            models=[model],
            key="writers",
            retries=retries,
        )
        for _, ask, outcome in came:
            assert ask.speech not in found
            found[ask.speech] = outcome
    finally:
        answers.close()
    return found


def speeches(count: int, crisis_every: int = 5) -> list[dict[str, Any]]:
    """Return rows with the columns that the step `replies` reads, sorted by speech."""
    rows = []
    for number in range(count):
        text = f"I am client {number}, and I cannot sleep since my brother left in week {number}."
        speech = hashlib.sha256(text.encode()).hexdigest()[:16]
        rows.append({"speech": speech, "text": text, "language": "en", "crisis": number % crisis_every == 0})
    return sorted(rows, key=lambda row: str(row["speech"]))


def directory(place: Path, rows: list[dict[str, Any]]) -> AnnotationDir:
    files = AnnotationDir(place)
    place.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), files.speeches)
    return files


def context(files: AnnotationDir, members: list[dict[str, Any]], **changes: Any) -> StepContext[AnnotationDir]:
    """Return a step context with these writers. Names in `changes` are keys with `__` in place of dots."""
    config: DictConfig = OmegaConf.create(
        {
            "writers": {"_target_": "psychocounsel.asking.language_model.Pool", "members": members},
            "replies": {"per_speech": 1, "seed": 0, "system_prompt": "builtin:counsellor", "length_limit": None},
            "budget": {"cost": None, "calls": None},
            "crisis_to_third_parties": False,
        }
    )
    shard = changes.pop("shard", (0, 1))
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return StepContext(config, files, lambda line: None, lambda items, what: items, shard)


def member(address: str, name: str = "served", **settings: Any) -> dict[str, Any]:
    """Return the settings of a chat server as a section of a configuration."""
    target = {"_target_": "psychocounsel.asking.chat_server.ChatServer", "name": name, "model": name}
    defaults = {"addresses": [address], "timeout_seconds": 10.0, "concurrency": 16, "max_tokens": 64}
    return {**target, **defaults, **settings}
