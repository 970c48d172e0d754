"""Draws the writers of each speech, and builds the prompt for each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from psychocounsel.asking.language_model import Ask, LanguageModel
from psychocounsel.asking.parties import who_may_see

WITHHELD, NO_WRITER = "withheld", "no_writer"


@dataclass(frozen=True)
class Speech:
    """What replying needs of a row of speeches.parquet."""

    speech: str
    text: str
    language: str | None
    crisis: bool


@dataclass(frozen=True)
class Draw:
    """Reply number `number` to a speech: by whom, and what is asked; without a writer, `outcome` says why."""

    speech: str
    number: int
    writer: LanguageModel | None = None
    ask: Ask | None = None
    outcome: str | None = None


@dataclass(frozen=True)
class Drawing:
    """How replies are drawn.

    Attributes:
        per_speech: replies to each speech, by different writers as far as there are so many.
        seed: of the draw and of the writers' random numbers.
        prompt: the system message of writers without one of their own.
        crisis_to_third_parties: whether others may see speeches about a crisis.
        own_prompts: the system messages of the other writers, by their names.
    """

    writers: Sequence[LanguageModel]
    per_speech: int
    seed: int
    prompt: str
    crisis_to_third_parties: bool
    own_prompts: Mapping[str, str] = field(default_factory=dict)

    def prompt_of(self, writer: LanguageModel | None) -> str:
        """The system message for a writer; None: a reply without a writer."""
        return self.prompt if writer is None else self.own_prompts.get(writer.name, self.prompt)

    def prompt_version(self, writer: LanguageModel | None) -> str:
        """16 hexadecimal digits that change with the writer's prompt."""
        return hashlib.sha256(self.prompt_of(writer).encode()).hexdigest()[:16]

    def of(self, speech: Speech) -> Iterator[Draw]:
        """The replies to a speech.

        Every writer has a random rank that depends on seed, speech and its name alone, and the first ranks are drawn. So
        other speeches change nothing, a larger `per_speech` adds to what was drawn, and a new writer takes only the places
        that it wins.
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
