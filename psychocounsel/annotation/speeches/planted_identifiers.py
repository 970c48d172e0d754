"""Measures how many identifiers the rules find, in made-up speeches from sentences with known identifiers."""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_FILE = Path(__file__).with_name("planted.yaml")
_SLOT = re.compile(r"\{(\w+)\}")
_SPEECHES, _SENTENCES = 600, 3
_KINDS = {"first": "name", "last": "name", "postcode": "address"}


@dataclass(frozen=True)
class Planted:
    """A made-up speech and its identifiers as (kind, text)."""

    text: str
    identifiers: list[tuple[str, str]]


def planted_speeches(seed: int = 0) -> Iterator[Planted]:
    """Yield 600 random speeches of three sentences each."""
    content = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    rng = random.Random(seed)
    for _ in range(_SPEECHES):
        chosen = rng.sample(content["sentences"], _SENTENCES)
        found: list[tuple[str, str]] = []

        def filled(match: re.Match[str], found: list[tuple[str, str]] = found) -> str:
            value = rng.choice(content["values"][match[1]])
            found.append((_KINDS.get(match[1], match[1]), value))
            return str(value)

        yield Planted("\n".join(_SLOT.sub(filled, sentence) for sentence in chosen), found)


def measured_recall(replace: Callable[[str], str]) -> dict[str, dict[str, Any]]:
    """Return, for each kind and for `all`: the number of planted identifiers, the number removed, and their ratio.

    An identifier counts as found if none of its words remains anywhere in the text after replacement.
    """
    planted, gone = Counter[str](), Counter[str]()
    for speech in planted_speeches():
        left = replace(speech.text)
        for kind, value in speech.identifiers:
            for name in (kind, "all"):
                planted[name] += 1
                gone[name] += not _is_left(value, left)
    return {
        kind: {"planted": planted[kind], "found": gone[kind], "recall": round(gone[kind] / planted[kind], 4)}
        for kind in sorted(planted, key=lambda kind: (kind == "all", kind))
    }


def _is_left(value: str, text: str) -> bool:
    """Return True if a part of an identifier, three or more characters long, remains in the text."""
    parts = [part for part in re.split(r"[\s,]+", value) if len(part) >= 3 and part.lower() not in ("the", "dot")]
    return any(re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) for part in parts or [value])
