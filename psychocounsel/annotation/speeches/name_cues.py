"""Finds names of people by the words around them, by common first names, and by other places in the same speech.

Only names in Latin letters are found; a rare name without such a cue is missed.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

_FILE = Path(__file__).with_name("name_words.yaml")
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
    content = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
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
    found = {span for cue in _cues() for match in cue.finditer(text) for span in _trimmed(text, *match.span("name"))}
    found |= {match.span() for match in _WORD.finditer(text) if match[0] in _words("first_names")}
    found |= {match.span("name") for match in _MY_NAME.finditer(text) if match["name"] not in _words("no_names")}
    for _, end in sorted(found):
        while (match := _AND_ANOTHER.match(text, end)) and _is_name(match["name"]):  # Tom, Anna and Max
            found.add(match.span("name"))
            end = match.end()
    known = {word.casefold() for start, end in found for word in text[start:end].split() if len(word) >= 3}
    yield from found
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
