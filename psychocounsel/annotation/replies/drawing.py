"""Draws the writers for each speech and builds their prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from psychocounsel.asking.language_model import Ask, LanguageModel
from psychocounsel.asking.parties import who_may_see

WITHHELD, NO_WRITER = "withheld", "no_writer"


@dataclass(frozen=True)
class Speech:
    """The columns of speeches.parquet that the step `replies` needs."""

    speech: str
    text: str
    language: str | None
    crisis: bool


@dataclass(frozen=True)
class Draw:
    """Reply number `number` to a speech: its writer and prompt, or, without a writer, the reason as `outcome`."""

    speech: str
    number: int
    writer: LanguageModel | None = None
    ask: Ask | None = None
    outcome: str | None = None


@dataclass(frozen=True)
class Drawing:
    """Rules by which writers are drawn.

    Attributes:
        per_speech: number of replies to each speech; a writer is drawn twice only if there are too few writers.
        seed: seed of the draw and of the writers' random numbers.
        prompt: the system message for writers without their own.
        crisis_to_third_parties: whether third parties may see crisis speeches.
        own_prompts: own system messages of writers, by name.
    """

    writers: Sequence[LanguageModel]
    per_speech: int
    seed: int
    prompt: str
    crisis_to_third_parties: bool
    own_prompts: Mapping[str, str] = field(default_factory=dict)

    def prompt_of(self, writer: LanguageModel | None) -> str:
        """Return the system message of a writer, or `prompt` if it has none of its own or `writer` is None."""
        return self.prompt if writer is None else self.own_prompts.get(writer.name, self.prompt)

    def prompt_version(self, writer: LanguageModel | None) -> str:
        """Return a hash of the writer's prompt [16 hexadecimal digits]."""
        return hashlib.sha256(self.prompt_of(writer).encode()).hexdigest()[:16]

    def of(self, speech: Speech) -> Iterator[Draw]:
        """Yield the draws for a speech.

        Every writer gets a random rank that depends only on seed, speech and the writer's name, and the writers with the first
        ranks are drawn. Therefore other speeches change nothing, a larger `per_speech` only adds replies, and a new writer
        replaces others only where its rank is better.
        """
        speaking = [writer for writer in self.writers if writer.language in (None, speech.language)]
        allowed = who_may_see(speaking, speech.crisis, self.crisis_to_third_parties)
        if not allowed:
            outcome = WITHHELD if speaking else NO_WRITER
            yield from (Draw(speech.speech, number, outcome=outcome) for number in range(self.per_speech))
            return
        ranked = sorted(allowed, key=lambda writer: self._random(speech.speech, writer.name))
        for number in range(self.per_speech):
            again, place = divmod(number, len(ranked))
            writer = ranked[place]
            seed = self._random(speech.speech, writer.name, str(again)) % (1 << 32)
            system = {"role": "system", "content": self.prompt_of(writer)}
            messages = (system, {"role": "user", "content": speech.text})
            yield Draw(speech.speech, number, writer, Ask(speech.speech, messages, seed, f"reply {again}"))

    def _random(self, *parts: str) -> int:
        return int.from_bytes(hashlib.sha256("\0".join((str(self.seed), *parts)).encode()).digest()[:8])
