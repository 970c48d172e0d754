"""Turns a row of a source into a cleaned speech, or into the reason why it is dropped."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from psychocounsel.annotation.speeches.identifier_rules import identifiers_in
from psychocounsel.annotation.speeches.identifiers import Finder, replace_identifiers
from psychocounsel.annotation.speeches.presidio_finder import presidio_finder
from psychocounsel.annotation.speeches.script_limits import script_of
from psychocounsel.annotation.speeches.settings import Speeches, limit_of
from psychocounsel.annotation.speeches.speech_rows import SpeechRow
from psychocounsel.counsel.language import language_of
from psychocounsel.counsel.risk_rules import read_risk_rules
from psychocounsel.counsel.topic_rules import read_topics

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u200b\ufeff]")


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
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def cleaned(row: SpeechRow, settings: Speeches) -> CleanSpeech | str:
    """Return the speech of a row, or the reason for dropping it: `too short`, `too long` or `language`.

    Length and language are measured before identifiers are replaced, without control characters and surrounding space.
    """
    text = _CONTROL.sub("", unicodedata.normalize("NFC", row.text.replace("\r\n", "\n"))).strip()
    script = script_of(text)
    if len(text) < limit_of(settings.min_characters, script):
        return "too short"
    if len(text) > limit_of(settings.max_characters, script):
        return "too long"
    language = row.language or language_of(text)
    if settings.languages is not None and language not in settings.languages:
        return "language"
    replaced = replace_identifiers(text, finders_of(settings))
    topic = read_topics(settings.topics).of(replaced.text, row.topic)
    risk = read_risk_rules(settings.risk_cues, settings.rules_may_clear and language == "en").of(text, row.risk)
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


def finders_of(settings: Speeches) -> Sequence[Finder]:
    """Return the identifier finders: our rules, then Presidio if enabled; none if identifiers are not replaced."""
    return _finders(settings.presidio, settings.presidio_model) if settings.identifiers else ()


@cache
def _finders(presidio: str, model: str | None) -> Sequence[Finder]:
    finder = presidio_finder(presidio, model)
    return (identifiers_in, finder) if finder else (identifiers_in,)
