"""Controls: bad replies that rules make from a client's speech or from a good reply.

Judges and reward models are measured on them, and `data.controls` adds them to training pairs as rejected replies.
"""

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_LOOPS = 6
_PRAISE = (
    "You are doing so well, and I am really proud of you.",
    "You are one of the strongest people that I know.",
    "Everything happens for a reason, and everything will be fine.",
    "Believe in yourself, and never give up!",
    "You are amazing just the way you are.",
    "I am sure that you will find your way. You always do!",
)
_REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "As an AI language model, I am not able to give advice about personal matters. Please see a professional.",
    "I'm unable to respond to this request. If you need support, please contact a qualified therapist.",
)


@dataclass(frozen=True)
class ControlSource:
    """What the controls for one client are made from.

    Attributes:
        speech: the client's turns as one text.
        good: a good reply to this client.
        other: a good reply to another client; None if there is no other client.
        system_prompt: the text that a model might recite.
        words: the words of all replies, to draw random words from.
    """

    speech: str
    good: str
    other: str | None
    system_prompt: str
    words: Sequence[str]


def _sentences(text: str) -> list[str]:
    return [sentence for sentence in _SENTENCE.split(text.strip()) if sentence]


def _first_half(text: str) -> str:
    words = text.split()
    return " ".join(words[: math.ceil(len(words) / 2)])


def _shuffled(parts: Sequence[str], rng: random.Random) -> str:
    return " ".join(rng.sample(parts, len(parts)))


def _reordered(text: str, rng: random.Random) -> str | None:
    """Return the text with its sentences shuffled; None for a single sentence."""
    sentences = _sentences(text)
    return _shuffled(sentences, rng) if len(sentences) > 1 else None


@dataclass(frozen=True)
class ControlKind:
    """A kind of control: `title` completes "this judge can't tell replies from ..."; `make` returns the text."""

    title: str
    make: Callable[[ControlSource, random.Random], str | None]


KINDS: Mapping[str, ControlKind] = {
    "echo": ControlKind("the client's own words", lambda given, rng: given.speech),
    "half_echo": ControlKind("half of the client's words", lambda given, rng: _first_half(given.speech)),
    "shuffled": ControlKind("the client's words shuffled", lambda given, rng: _shuffled(given.speech.split(), rng)),
    "sentences": ControlKind("the client's sentences shuffled", lambda given, rng: _reordered(given.speech, rng)),
    "other_client": ControlKind("good replies to other clients", lambda given, rng: given.other),
    "recital": ControlKind("the system prompt", lambda given, rng: given.system_prompt),
    "loop": ControlKind("loops", lambda given, rng: " ".join([given.good, *_sentences(given.good)[-1:] * _LOOPS])),
    "cut": ControlKind("replies cut in half", lambda given, rng: _first_half(given.good)),
    "random": ControlKind(
        "random words", lambda given, rng: " ".join(rng.choices(given.words, k=len(given.good.split())))
    ),
    "praise": ControlKind("empty praise", lambda given, rng: _shuffled(_PRAISE, rng)),
    "refusal": ControlKind("refusals", lambda given, rng: rng.choice(_REFUSALS)),
}


def control_of(kind: str, material: ControlSource, rng: random.Random) -> str | None:
    """Return a control of this `kind`; None if it would equal the good reply or has no material."""
    text = KINDS[kind].make(material, rng)
    return None if text is None or text.strip() in ("", material.good) else text.strip()
