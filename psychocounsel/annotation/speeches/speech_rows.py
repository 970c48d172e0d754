"""Reads rows of a source as speeches: the client's text, and the topic and risk that the row states."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.annotation.speeches.settings import SpeechSource
from psychocounsel.data.sources import SourceWithCopies, read_rows
from psychocounsel.errors import UserError, words

_COLUMNS = ("question", "prompt", "speech", "text", "messages")
_IDS = ("id", "ID", "prefID")
_CLIENT = ("user", "client", "human")


@dataclass(frozen=True)
class SpeechRow:
    """A row with a client's text. `row` is the source's own id or the row's place; `topic` and `risk` are column values."""

    source: str
    row: str
    text: str
    license: str | None
    language: str | None
    topic: Any
    risk: Any


@dataclass(frozen=True)
class BadRow:
    """An unusable row; `reason` names its place and does not quote the text."""

    source: str
    row: str
    reason: str


def read_speeches(source: SpeechSource, copies: Path) -> Iterator[SpeechRow | BadRow]:
    """Yield every row of `source` in order, one at a time.

    The `datasets` library copies CSV files and folders before reading them. These copies go to `copies`; they contain clients'
    identifiers, so the caller must delete the folder.

    Raises:
        UserError: if the source cannot be read.
    """
    for where, row in read_rows(SourceWithCopies(copies), source.path, source.split, source.revision):
        try:
            if isinstance(row, UserError):
                raise row
            yield _speech(row, where, source)
        except UserError as error:
            yield BadRow(source.title, where, str(error))


def _speech(row: Mapping[str, Any], where: str, source: SpeechSource) -> SpeechRow:
    given = {name: value for name, value in row.items() if value is not None}
    wanted = (source.column,) if source.column else _COLUMNS
    column = next((name for name in wanted if name in given), None)
    if column is None:
        found = words(", ".join(sorted(map(str, given))) or "none")
        raise UserError(
            f"{where}: needs a column {' or '.join(wanted)}; the columns with values are {found} (speeches.column)"
        )
    identity = next((given[name] for name in _IDS if isinstance(given.get(name), str | int)), where)
    return SpeechRow(
        source.title,
        str(identity),
        _text(given[column], f"{where}: {column}"),
        source.license,
        source.language,
        given.get(source.topic_column),
        row.get(source.risk_column),
    )


def _text(value: Any, what: str) -> str:
    """Return a text, or the last client's turn in a list of messages."""
    if isinstance(value, list):
        turns = [each for each in value if isinstance(each, Mapping) and each.get("role") in _CLIENT]
        if not turns:
            raise UserError(
                f"{what} holds no turn of a client: messages need a role ({', '.join(_CLIENT)}) and content"
            )
        value = turns[-1].get("content")
    if not isinstance(value, str):
        raise UserError(f"{what} holds something that is not text")
    if not value.strip():
        raise UserError(f"{what} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{what} holds half a character (a lone surrogate)") from error
    return value
