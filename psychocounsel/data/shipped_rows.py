"""Rows of the shipped data sets: `data=sample` and `data=everyday`. The README.md in the folder of each describes its files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from psychocounsel.data.base import Row
from psychocounsel.data.files import file_rows
from psychocounsel.errors import UserError
from psychocounsel.settings.paths import SHIPPED_DATA
from psychocounsel.storage.yaml_limits import Loader

_SAMPLE = Path(__file__).parent / "sample"
_HARMFUL = _SAMPLE / "harmful.yaml"
_FLIPS = _SAMPLE / "flips"
_EVERYDAY = Path(__file__).parent / "everyday"


@cache
def sample_files() -> tuple[Path, ...]:
    return tuple(sorted(_SAMPLE.rglob("*.yaml")))


def topic_files() -> list[Path]:
    """Return one file per topic; it holds speeches with four replies each."""
    return sorted(set(_SAMPLE.glob("*.yaml")) - {_HARMFUL})


def flip_files() -> list[Path]:
    """Return one file per topic with quartets of two speeches and two replies; each reply is better for one of the clients."""
    return sorted(_FLIPS.glob("*.yaml"))


@cache
def read_sample_file(file: Path) -> Any:
    """Return the content of a shipped file, which nobody may change: a study's dry run reads the sample for each of its jobs."""
    return yaml.load(file.read_text(encoding="utf-8"), Loader)


def sample_rows() -> Iterator[tuple[str, Row]]:
    """Yield each row with its place: first all speeches with four replies, then two rows for each quartet."""
    harmful = read_sample_file(_HARMFUL)
    for file in topic_files():
        entries = read_sample_file(file)
        texts = {reply["id"]: reply["text"] for entry in entries for reply in entry["replies"] if "text" in reply}
        for entry in entries:
            replies = [_reply(reply, texts, harmful) for reply in entry["replies"]]
            yield f"{file.name} {entry['id']}", _row(entry["id"], entry, replies, file.stem)
    for file in flip_files():
        for quartet in read_sample_file(file):
            for client in ("a", "b"):
                replies = [_rated(reply["text"], reply[client]) for reply in quartet["replies"]]
                identity = f"{quartet['id']}-{client}"
                yield f"flips/{file.name} {identity}", _row(identity, quartet[client], replies, file.stem)


def _row(identity: str, client: dict[str, Any], replies: list[dict[str, Any]], topic: str) -> Row:
    about = {name: client[name] for name in ("risk", "expected_action", "stage")}
    return {"id": identity, "prompt": client["speech"], "replies": replies, "topic": topic, **about}


def _reply(reply: dict[str, Any], texts: dict[str, str], harmful: dict[str, str]) -> dict[str, Any]:
    """Return a reply with its text: its own, that of another client's reply, or that of a harmful reply in `harmful`."""
    name = reply.get("text_of")
    text = reply["text"] if name is None else harmful[name] if name in harmful else texts[name]
    return _rated(text, reply["ratings"], name in harmful)


def _rated(text: str, ratings: dict[str, int], harmful: bool = False) -> dict[str, Any]:
    return {"text": text, "ratings": ratings, "harmful": harmful}


def everyday_files() -> tuple[Path, ...]:
    """Return one file per topic; each line is a client with rated replies, as in a user's own file."""
    return tuple(sorted(_EVERYDAY.glob("*.jsonl")))


def everyday_rows() -> Iterator[tuple[str, Row]]:
    """Yield each row with its place."""
    for file in everyday_files():
        for where, row in file_rows(file, (), None):
            if isinstance(row, UserError):  # the file was changed
                raise row
            yield where, row


@dataclass(frozen=True)
class Shipped:
    """A shipped data set: its files, which identify it, and its rows."""

    files: Callable[[], Sequence[Path]]
    rows: Callable[[], Iterator[tuple[str, Row]]]


SHIPPED = dict(
    zip(SHIPPED_DATA, (Shipped(sample_files, sample_rows), Shipped(everyday_files, everyday_rows)), strict=True)
)
