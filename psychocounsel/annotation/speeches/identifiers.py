"""Finds identifiers in a speech and replaces them with placeholders; equal identifiers get equal placeholders.

This is not anonymisation. `measured_recall` says how many identifiers the rules find in made-up speeches.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

# Names of people, found by the words around them, by common first names, and by other places in the same speech. Only
# names in Latin letters are found; a rare name without such a cue is missed.

_NAME_WORDS = Path(__file__).with_name("name_words.yaml")
_UPPER = "A-Z\u00c0-\u00d6\u00d8-\u00de\u0141\u015a\u017b\u0160\u010c\u017d\u0110\u0130\u011e\u015e"
_CAPITALISED = rf"[{_UPPER}](?:[^\W\d_]+|['\u2019](?=[{_UPPER}]))(?:['\u2019-]?[{_UPPER}][^\W\d_]+)*"
_NAME = rf"(?P<name>{_CAPITALISED}(?: {_CAPITALISED}){{0,2}})"
_SPOKEN = (
    "says said tells told thinks thought asked asks wants wanted left died moved came walked shouted yelled cried cries laughed "
    "hates hated loves loved drinks drank hit hits threw throws slept sleeps replied smiled apologised apologized"
)
_DEMONYM = re.compile(r"\w{2,}(?:ish|ese|ian|ist)$")


@cache
def _words(group: str) -> frozenset[str]:
    content = yaml.safe_load(_NAME_WORDS.read_text(encoding="utf-8"))
    words = content[group].split()
    return frozenset(words if group in ("first_names", "titles") else (word.lower() for word in words))


@cache
def _cues() -> list[re.Pattern[str]]:
    relation = "|".join(sorted(map(re.escape, _words("relations")), key=len, reverse=True))
    title, spoken = "|".join(_words("titles")), "|".join(_SPOKEN.split())
    own = r"(?i:\b(?:my|our|his|her|their|your|the|an?)\s(?:[\w-]+\s){0,2}?"
    called = r"(?:'s|\u2019s)? (?:name(?:'s|\u2019s)? (?:is|was) |is called |was called |is named |called |named )|, | - | \(| "
    naming = (
        r"name(?:'s|\u2019s| is| was|:)|called|named|known as|calls? me|go(?:es)? by|name of|name,|married to|engaged to|"
        r"divorced from|in love with|(?:live|lives|living|broke up) with|dating"
    )
    parting = r"(?:thanks|thank you|cheers|regards|wishes|love|yours|sincerely|signed|hugs|x+)[^\n.!?]{0,30}?[,.!]?"
    return [
        re.compile(rf"(?i:\b(?:{naming}),? )[\"\u201c]?{_NAME}"),
        re.compile(rf"\b(?:I['\u2019]m|I am|[Tt]his is|[Ii]t['\u2019]s) {_NAME}(?=[,.!;)]| and | from | here|, by|$)"),
        re.compile(rf"\b(?:{title})\.? {_NAME}"),
        re.compile(rf"{own}(?:{relation})(?:{called})){_NAME}"),
        re.compile(
            rf"\b{_NAME}(?:,| is| was|,? who is|,? who was) (?:my|our|his|her) (?:[\w-]+ ){{0,2}}?(?:{relation})\b"
        ),
        re.compile(rf"(?i:\b{parting}[\s\u2013\u2014-]*){_NAME}[.!]?\s*(?:\n|$)"),
        re.compile(rf"(?i:\b(?:hi|hello|hey|dear),? ){_NAME}(?=[,.!\n])"),
        re.compile(rf"(?i:(?:^|\b(?:hi|hello|hey)\W*(?:there|all|everyone)?,? )){_NAME} here\b"),
        re.compile(rf"\b{_NAME}(?:, | \()\d{{1,2}}(?=[,.;)]| years| yrs| ?[mf]\b)"),
        re.compile(rf"(?<=[a-z,;] ){_NAME} (?:{spoken})\b"),
        re.compile(rf"(?<=[a-z,;] ){_NAME} and (?:I|me)\b"),
    ]


_MY_NAME = re.compile(
    r"\b[Mm]y (?:first |full |real )?name(?:'s|\u2019s| is) (?P<name>[a-z]{3,})\b"
)  # a name in lower case
_AND_ANOTHER = re.compile(rf"(?:, | and |, and | & )(?P<name>{_CAPITALISED})")
_WORD = re.compile(_CAPITALISED)


def names_in(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each name of a person."""
    spans = {span for cue in _cues() for match in cue.finditer(text) for span in _trimmed(text, *match.span("name"))}
    spans |= {match.span() for match in _WORD.finditer(text) if match[0] in _words("first_names")}
    spans |= {match.span("name") for match in _MY_NAME.finditer(text) if match["name"] not in _words("no_names")}
    for _, end in sorted(spans):
        while (match := _AND_ANOTHER.match(text, end)) and _is_name(match["name"]):  # Tom, Anna and Max
            spans.add(match.span("name"))
            end = match.end()
    known = {word.casefold() for start, end in spans for word in text[start:end].split() if len(word) >= 3}
    yield from spans
    for match in _WORD.finditer(text):  # the same names elsewhere in the speech
        if match[0].casefold() in known:
            yield match.span()


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the part of the span before its first word that cannot be a name; nothing if that part is empty."""
    last = start
    for match in _WORD.finditer(text, start, end):
        if not _is_name(match[0]):
            break
        last = match.end()
    if last > start:
        yield start, last


def _is_name(word: str) -> bool:
    small = word.casefold()
    return (
        small not in _words("no_names")
        and not (len(small) > 4 and _DEMONYM.match(small))
        and not (word.isupper() and len(word) < 5)
    )


# Patterns: e-mail and web addresses, handles, phone and other numbers, dates of birth, addresses


@dataclass(frozen=True)
class IdentifierSpan:
    """An identifier in a text: the characters from `start` to before `end`, and the kind that its placeholder names."""

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
    identifiers: list[IdentifierSpan] = []
    for span in _candidates(text):
        if all(span.end <= other.start or other.end <= span.start for other in identifiers):
            identifiers.append(span)
    return sorted(identifiers, key=lambda span: span.start)


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


# Placeholders

Finder = Callable[[str], Sequence[IdentifierSpan]]
STATEMENT = (
    "This is not anonymisation: rules replace only what they recognise. Everything else stays, and a story alone may identify a "
    "person to people who know them."
)
_PLACEHOLDER = re.compile(r"\[([A-Z_]+)_(\d+)\]")


@dataclass(frozen=True)
class Replaced:
    """A text with placeholders, and the number of placeholders of each kind."""

    text: str
    counts: Counter[str]


def replace_identifiers(text: str, finders: Sequence[Finder] = (identifiers_in,)) -> Replaced:
    """Replace each identifier with a placeholder such as [NAME_1]; where finders overlap, the earlier finder wins.

    The same e-mail address or number gets the same placeholder each time; so do a full name and each of its parts.
    """
    taken = [match.span() for match in _PLACEHOLDER.finditer(text)]  # placeholders from an earlier cleaning
    spans: list[IdentifierSpan] = []
    for finder in finders:
        for span in finder(text):
            others = [*taken, *((other.start, other.end) for other in spans)]
            if all(span.end <= start or end <= span.start for start, end in others):
                spans.append(span)
    spans.sort(key=lambda span: span.start)
    numbers = _numbers(text, spans)
    pieces, last = [], 0
    for span, number in zip(spans, numbers, strict=True):
        pieces += [text[last : span.start], f"[{span.kind}_{number}]"]
        last = span.end
    return Replaced("".join([*pieces, text[last:]]), Counter(span.kind for span in spans))


def _numbers(text: str, spans: Sequence[IdentifierSpan]) -> list[int]:
    """Return the number of each span's placeholder, counted per kind from 1, or after the numbers already in the text."""
    used = Counter[str]()
    for match in _PLACEHOLDER.finditer(text):
        used[match[1]] = max(used[match[1]], int(match[2]))
    known: dict[tuple[str, str], int] = {}
    longest_first = sorted(range(len(spans)), key=lambda place: (spans[place].start - spans[place].end, place))
    names = {place: _keys(text, spans[place]) for place in longest_first}
    same: dict[tuple[str, str], tuple[str, str]] = {}
    for place in longest_first:  # Tom Baker before Tom, so that both get the same placeholder
        whole = next((same[key] for key in names[place] if key in same), names[place][0])
        for key in names[place]:
            same.setdefault(key, whole)
    numbers = []
    for place, span in enumerate(spans):
        whole = same[names[place][0]]
        if whole not in known:
            used[span.kind] += 1
            known[whole] = used[span.kind]
        numbers.append(known[whole])
    return numbers


def _keys(text: str, span: IdentifierSpan) -> list[tuple[str, str]]:
    """Return the keys that identify equal identifiers: the letters and digits, and for a name also each of its parts."""
    value = text[span.start : span.end].casefold()
    keys = [(span.kind, re.sub(r"[\W_]+", "", value))]
    if span.kind == "NAME":
        keys += [(span.kind, re.sub(r"\W+", "", part)) for part in value.split()]
    return keys


# Recall of the rules in made-up speeches, from sentences with known identifiers

_PLANTED = Path(__file__).with_name("planted.yaml")
_SLOT = re.compile(r"\{(\w+)\}")
_SPEECHES, _SENTENCES = 600, 3
_KINDS = {"first": "name", "last": "name", "postcode": "address"}


@dataclass(frozen=True)
class PlantedSpeech:
    """A made-up speech and its identifiers as (kind, text)."""

    text: str
    identifiers: list[tuple[str, str]]


def planted_speeches() -> Iterator[PlantedSpeech]:
    """Yield 600 random speeches of three sentences each, always the same."""
    content = yaml.safe_load(_PLANTED.read_text(encoding="utf-8"))
    rng = random.Random(0)
    for _ in range(_SPEECHES):
        chosen = rng.sample(content["sentences"], _SENTENCES)
        identifiers: list[tuple[str, str]] = []

        def filled(match: re.Match[str], identifiers: list[tuple[str, str]] = identifiers) -> str:
            value = rng.choice(content["values"][match[1]])
            identifiers.append((_KINDS.get(match[1], match[1]), value))
            return str(value)

        yield PlantedSpeech("\n".join(_SLOT.sub(filled, sentence) for sentence in chosen), identifiers)


def measured_recall(replace: Callable[[str], str]) -> dict[str, dict[str, Any]]:
    """Return, for each kind and for `all`: the number of planted identifiers, the number removed, and their ratio.

    An identifier counts as found if none of its words remains anywhere in the text after replacement.
    """
    planted, gone = Counter[str](), Counter[str]()
    for speech in planted_speeches():
        text = replace(speech.text)
        for kind, value in speech.identifiers:
            for name in (kind, "all"):
                planted[name] += 1
                gone[name] += not _is_left(value, text)
    return {
        kind: {"planted": planted[kind], "found": gone[kind], "recall": round(gone[kind] / planted[kind], 4)}
        for kind in sorted(planted, key=lambda kind: (kind == "all", kind))
    }


def _is_left(value: str, text: str) -> bool:
    """Return True if a part of an identifier, three or more characters long, remains in the text."""
    parts = [part for part in re.split(r"[\s,]+", value) if len(part) >= 3 and part.lower() not in ("the", "dot")]
    return any(re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) for part in parts or [value])
