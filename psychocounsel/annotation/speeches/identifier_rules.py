"""Finds identifiers by patterns: e-mail and web addresses, handles, phone and other numbers, dates of birth, addresses."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from psychocounsel.annotation.speeches.name_cues import names_in


@dataclass(frozen=True)
class IdentifierSpan:
    """An identifier in a text: the characters from `start` to before `end`, and its kind as in the placeholder."""

    start: int
    end: int
    kind: str


_ENDINGS = "com|org|net|edu|gov|info|io|me|co|uk|us|de|fr|ie|au|ca|nz|in|eu|app|dev|online|site|xyz"
_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|"
    r"Dec(?:ember)?)\.?"
)
_DAY = r"(?:the )?\d{1,2}(?:st|nd|rd|th)?"
_DATE = (
    rf"(?:{_DAY} (?:of )?{_MONTH}(?:,? \d{{2,4}})?|{_MONTH} {_DAY}(?:,? \d{{4}})?|\d{{1,2}}[./-]\d{{1,2}}[./-]\d{{2,4}}|"
    rf"\d{{4}}-\d\d-\d\d|{_MONTH} \d{{4}}|(?:19|20)\d\d)"
)
_FULL_DATE = r"(?:\d{1,2}[./-]\d{1,2}[./-](?:19|20)\d\d|(?:19|20)\d\d-\d\d-\d\d)"
_WAY = (
    "Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Drive|Court|Ct|Place|Boulevard|Blvd|Way|Close|Terrace|Crescent|Square|Gardens|Row|Hill|"
    "Parkway|Grove|Mews|Walk|Circle|Highway|Hwy|Quay|Wharf|Rise|Green|View|Park"
)
_CAP = r"[A-Z][\w'\u2019.-]*"
_FLAT = r"(?:,? (?:Apt|Apartment|Flat|Unit|Suite|Room|No)\.? ?\w{1,4}\b)?"
_REST = r"(?:, [A-Z][a-z]+(?: [A-Z][a-z]+)?)?(?:,? [A-Z]{2},? \d{5}(?:-\d{4})?)?"

_DOT = r"(?:dot|\(dot\)|\[dot\])"
_SPOKEN_MAIL = rf"\b\w+(?: {_DOT} \w+)* ?(?:at|\(at\)|\[at\]|@) ?\w+(?: ?{_DOT} ?\w+)*? ?{_DOT} ?(?:{_ENDINGS})\b"
_NAMED_HANDLE = (
    r"(?i:\b(?:username|user name|handle|insta(?:gram)?|snap(?:chat)?|tiktok|discord|twitter|reddit|skype)(?: name)?"
    r"(?: there| on there)? (?:is|was|:) )(?P<value>\w*[\d_.]\w*)"
)
_BIRTH = (
    r"\b(?i:born(?: on| in|:)?|date of birth(?: is| was|:)?|d\.?o\.?b\.?:?|birth ?date(?: is|:)?|"
    rf"birthday(?: is| was|'s|:)?(?: on)?) (?P<value>{_DATE})(?!\w)"
)
_HOME = (
    r"\b(?i:live|living|lives|lived|moved|move|house|flat|home|stay|staying) (?i:on|in|at|to|into) "
    rf"(?P<value>(?:{_CAP} ){{1,3}}(?:Street|St|Road|Rd|Avenue|Ave|Lane|Drive|Close|Crescent|Terrace))\b"
)
_NAMED_NUMBER = (
    r"(?i:\b(?:number|no|nr|id|reference|ref|account|passport|licen[cs]e|policy|case|file|patient|insurance|registration|plate)\b\.?"
    r"(?: number| no\.?)?(?: is|:|,|#)? ?[#(]?)(?P<value>(?=[\w-]*\d{3})[A-Z]{0,3}-?\d[\w-]{3,})"
)

# Tried in this order: a later pattern cannot match text that an earlier one has taken.
_PATTERNS: list[tuple[str, re.Pattern[str]]] = [
    ("EMAIL", re.compile(r"[\w.+%-]+@[\w-]+(?:\.[\w-]+)+")),
    ("EMAIL", re.compile(_SPOKEN_MAIL, re.I)),
    ("URL", re.compile(r"\b(?:https?://|www\.)[^\s<>()\"]*[^\s<>()\".,;:!?]", re.I)),
    (
        "URL",
        re.compile(rf"(?<![@\w.])[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:{_ENDINGS})(?:/[^\s<>()\",;]*[\w/])?(?![\w@])", re.I),
    ),
    ("HANDLE", re.compile(r"(?<![\w@.])@\w[\w.]*\w")),
    ("HANDLE", re.compile(r"(?<![\w/])/?u/[\w-]{3,}")),
    ("HANDLE", re.compile(_NAMED_HANDLE)),
    ("DATE_OF_BIRTH", re.compile(_BIRTH)),
    ("DATE", re.compile(rf"(?<![\w/.-]){_FULL_DATE}(?![\w/-])")),
    ("ADDRESS", re.compile(rf"\b\d{{1,5}}[A-Za-z]?,? (?:{_CAP} ){{1,4}}(?:{_WAY})\b\.?{_FLAT}{_REST}")),
    ("ADDRESS", re.compile(_HOME)),
    ("ADDRESS", re.compile(r"\b[A-Z]\w*(?:stra\u00dfe|strasse|str\.|weg|gasse|platz|allee) \d{1,4}[a-z]?\b")),
    ("ADDRESS", re.compile(r"\b(?:P\. ?O\.|PO|Post Office) Box \d+", re.I)),
    ("ADDRESS", re.compile(r"\b[A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2}\b")),
    ("ADDRESS", re.compile(r"\b(?i:zip(?: code)?|post ?code)(?: is|:)? (?P<value>[A-Z\d][A-Z\d -]{2,8}[A-Z\d])\b")),
    ("NUMBER", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b")),
    ("NUMBER", re.compile(_NAMED_NUMBER)),
]
_NUMBER = re.compile(
    r"(?<![\w$\u00a3\u20ac.,])(?:\+|\(\+?(?=\d{1,5}\)))?\d(?:(?:[ .-]|\) ?| \(?)?\d){5,18}(?!\w|[.,]\d)"
)
_YEARS = re.compile(r"(?:19|20)\d\d[\s-]+(?:19|20)\d\d")


def identifiers_in(text: str) -> list[IdentifierSpan]:
    """Return the identifiers that the rules find, in text order and without overlaps."""
    found: list[IdentifierSpan] = []
    for span in _candidates(text):
        if all(span.end <= other.start or other.end <= span.start for other in found):
            found.append(span)
    return sorted(found, key=lambda span: span.start)


def _candidates(text: str) -> Iterator[IdentifierSpan]:
    for kind, pattern in _PATTERNS:
        for match in pattern.finditer(text):
            group = "value" if "value" in pattern.groupindex else 0
            yield IdentifierSpan(match.start(group), match.end(group), kind)
    for match in _NUMBER.finditer(text):
        digits = sum(map(str.isdigit, match[0]))
        separated = re.search(r"\D", match[0].strip("+("))
        if not _YEARS.fullmatch(match[0]) and (digits >= 7 or not separated):
            yield IdentifierSpan(match.start(), match.end(), "PHONE" if match[0][0] in "+(0" or separated else "NUMBER")
    for start, end in sorted(set(names_in(text)), key=lambda span: (span[0] - span[1], span)):  # longer ones first
        yield IdentifierSpan(start, end, "NAME")
