"""From a row of a source to a speech of the table, or to the reason why it falls."""

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
    """A row of speeches.parquet that is yet to be compared with others; `kinds`: placeholders put in, by their kind."""

    columns: dict[str, Any]
    kinds: Counter[str]


@dataclass(frozen=True)
class CleanedRow:
    """A row of a source with its speech, or the reason why it falls; `bad` says what is wrong with a row that cannot be used."""

    source: str
    row: str
    outcome: CleanSpeech | str
    bad: str | None = None


def speech_id(text: str) -> str:
    """The id of a speech: 16 hexadecimal digits, the same for texts that differ in case, spacing and Unicode form alone."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def cleaned(row: SpeechRow, settings: Speeches) -> CleanSpeech | str:
    """The speech of a row, or the reason why it falls: `too short`, `too long` or `language`.

    Length and language are those of the text as it came, without control characters and space around it.
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
    """What looks for identifiers: our rules, then Presidio where it is to be used; nothing if none are to be replaced."""
    return _finders(settings.presidio, settings.presidio_model) if settings.identifiers else ()


@cache
def _finders(presidio: str, model: str | None) -> Sequence[Finder]:
    finder = presidio_finder(presidio, model)
    return (identifiers_in, finder) if finder else (identifiers_in,)
