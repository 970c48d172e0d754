"""Reads rows of a source, and turns each into a cleaned speech or into the reason why it is dropped."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from psychocounsel.annotation.speeches.identifiers import Finder, IdentifierSpan, identifiers_in, replace_identifiers
from psychocounsel.annotation.speeches.presidio import presidio_finder
from psychocounsel.annotation.speeches.settings import Speeches, SpeechSource, limit_of
from psychocounsel.counsel.traits import language_of, read_risk_rules, read_topics
from psychocounsel.data.messages import TALKS, talk_with_client
from psychocounsel.data.near_duplicates import CJK
from psychocounsel.data.rows import is_missing
from psychocounsel.data.shaping import file_of
from psychocounsel.data.sources import StandardSource, read_rows
from psychocounsel.errors import UserError, words
from psychocounsel.grading.rating import conversation_text, turns_of
from psychocounsel.storage.files import expanded
from psychocounsel.storage.text_hashes import text_id

# Rows of a source: the client's text, and the topic and risk that the row states

_COLUMNS = ("question", "prompt", "speech", "text", *TALKS)
_IDS = ("id", "ID", "prefID")


@dataclass(frozen=True)
class SpeechRow:
    """A row with a client's text. `row` is the source's own id or the row's place; `topic` and `risk` are column values.

    With `speeches.turns=all` or `every`, `text` may be a conversation, in the form of `conversation_text`.
    """

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


def read_speeches(source: SpeechSource, turns: str, copies: Path) -> Iterator[SpeechRow | BadRow]:
    """Yield every row of `source` in order, one at a time; with `turns=every` once for each turn of the client.

    The `datasets` library copies the folders that it reads. These copies go to `copies`; they contain clients' identifiers,
    so the caller must delete the folder.

    Raises:
        UserError: if the source cannot be read.
    """
    for where, row in read_rows(StandardSource(copies=copies), source.path, source.split, source.revision):
        try:
            if isinstance(row, UserError):
                raise row
            yield from _speeches(row, where, source, turns)
        except UserError as error:
            yield BadRow(source.title, where, str(error))


def _speeches(row: Mapping[str, Any], where: str, source: SpeechSource, turns: str) -> list[SpeechRow]:
    values = {
        name: value for name, value in row.items() if not (value is None or value != value)
    }  # NaN differs from itself
    candidates = (source.column,) if source.column else _COLUMNS
    column = next((name for name in candidates if name in values), None)
    if column is None:
        if empty := [name for name in candidates if name in row]:
            raise UserError(f"{where}: {empty[0]} is empty")
        columns = words(", ".join(sorted(map(str, values))) or "none")
        raise UserError(
            f"{where}: needs a column {' or '.join(candidates)}; the columns with values are {columns}: name that of the "
            "texts by speeches.column=NAME"
        )
    identity = next((values[name] for name in _IDS if isinstance(values.get(name), str | int)), where)
    if identity != where and source.path and expanded(source.path).is_dir():
        # Each file of a folder may count its conversations from 1.
        identity = f"{file_of(where)} {identity}"
    texts = _conversations(values[column], where, column, turns)
    topic, risk = (
        None if is_missing(value) else value for value in map(row.get, (source.topic_column, source.risk_column))
    )
    return [
        SpeechRow(source.title, str(identity), text, source.license, source.language, topic, risk) for text in texts
    ]


def _conversations(value: Any, where: str, column: str, turns: str) -> list[str]:
    """Return the client's last turn, the conversation up to it (`turns=all`) or up to each of the client's turns (`every`).

    Conversations have the form of `conversation_text`.
    """
    said = [{**turn, "content": _plain(turn["content"])} for turn in talk_with_client(value, where, column)]
    if turns == "last":
        return [said[-1]["content"]]
    if len(said) > 1:  # no paragraph of a turn may look like the next turn
        said = [{**turn, "content": _LIKE_A_TURN.sub("\n", turn["content"])} for turn in said]
    ends = [place for place, turn in enumerate(said, 1) if turn["role"] == "user"]
    return [conversation_text(said[:end]) for end in (ends if turns == "every" else ends[-1:])]


# The script of a speech, which decides its length limits

_CJK = re.compile(f"[{CJK}]")
_LETTER = re.compile(r"[^\W\d_]")


def script_of(text: str) -> str:
    """Return `cjk` if at least half of the letters are Chinese, Japanese or Korean characters, otherwise `default`."""
    characters = len(_CJK.findall(text))
    return "cjk" if characters and 2 * characters >= len(_LETTER.findall(text)) else "default"


# Cleaned speeches

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u200b\ufeff]")
_LIKE_A_TURN = re.compile(r"\n{2,}(?=(Client|Counsellor): )")


def _plain(text: str) -> str:
    """Return a text in one Unicode form, without control characters and surrounding space."""
    return _CONTROL.sub("", unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))).strip()


@dataclass(frozen=True)
class CleanSpeech:
    """A row of speeches.parquet before deduplication; `kinds` counts its placeholders by kind."""

    columns: dict[str, Any]
    kinds: Counter[str]


@dataclass(frozen=True)
class CleanedRow:
    """A source row's result: a speech, or the reason for dropping it; `bad` says what is wrong with an unusable row."""

    source: str
    row: str
    outcome: CleanSpeech | str
    bad: str | None = None


def speech_id(text: str) -> str:
    """Return the id of a speech [16 hexadecimal digits]. Texts that differ only in case, spacing or Unicode form share one."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return text_id(plain)


def cleaned(row: SpeechRow, settings: Speeches) -> CleanSpeech | str:
    """Return the speech of a row, or the reason for dropping it: `too short`, `too long` or `language`.

    Length and language are measured before identifiers are replaced, without control characters and surrounding space. Of a
    conversation, the client's turns alone decide language, topic and risk.
    """
    text = _plain(row.text)
    script = script_of(text)
    if len(text) < limit_of(settings.min_characters, script):
        return "too short"
    if len(text) > limit_of(settings.max_characters, script):
        return "too long"
    client = _client_words(text, settings)
    language = row.language or language_of(client)
    if settings.languages is not None and language not in settings.languages:
        return "language"
    places = [(start, end) for _, start, end in _turns(text, settings)]
    replaced = replace_identifiers(text, [_within(places, finder) for finder in finders_of(settings)])
    topic = read_topics(settings.topics).of(_client_words(replaced.text, settings), row.topic)
    risk = read_risk_rules(settings.risk_cues, settings.rules_may_clear and language == "en").of(client, row.risk)
    columns = {
        "speech": speech_id(replaced.text),
        "text": replaced.text,
        "source": row.source,
        "row": row.row,
        "license": row.license,
        "language": language,
        "topic": topic.coarse,
        "fine_topic": topic.fine,
        "risk": risk.kind,
        "risk_source": risk.source,
        "crisis": risk.crisis,
        "identifiers": replaced.counts.total(),
    }
    return CleanSpeech(columns, replaced.counts)


def _turns(text: str, settings: Speeches) -> list[tuple[str, int, int]]:
    return turns_of(text) if settings.turns != "last" else [("user", 0, len(text))]


def _client_words(text: str, settings: Speeches) -> str:
    return "\n\n".join(text[start:end] for role, start, end in _turns(text, settings) if role == "user")


def _within(places: Sequence[tuple[int, int]], finder: Finder) -> Finder:
    """Return a finder whose identifiers lie in these places of a text: the turns, not the names of the speakers."""

    def find(text: str) -> list[IdentifierSpan]:
        outside = zip([0, *(end for _, end in places)], [*(start for start, _ in places), len(text)], strict=True)
        for start, end in outside:  # a sign that belongs to no identifier
            text = text[:start] + re.sub(r"\S", "|", text[start:end]) + text[end:]
        return [
            replace(span, start=max(span.start, start), end=min(span.end, end))
            for span in finder(text)
            for start, end in places
            if max(span.start, start) < min(span.end, end)
        ]

    return find


def finders_of(settings: Speeches) -> Sequence[Finder]:
    """Return the identifier finders: our rules, then Presidio if enabled; none if identifiers are not replaced."""
    return _finders(settings.presidio, settings.presidio_model) if settings.identifiers else ()


@cache
def _finders(presidio: str, model: str | None) -> Sequence[Finder]:
    finder = presidio_finder(presidio, model)
    return (identifiers_in, finder) if finder else (identifiers_in,)
