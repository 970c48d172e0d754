"""Which ratings are asked for: each reply by each annotator, `scores.votes` times, and some of them once more."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from psychocounsel.annotation.asking.language_model import Ask, LanguageModel
from psychocounsel.annotation.scores.rating_prompts import RatingPrompt, principle_order
from psychocounsel.annotation.tables import Row


@dataclass(frozen=True, kw_only=True)
class RatingAsk(Ask):
    """A call that rates replies to one speech.

    Attributes:
        client: the speech's text.
        replies: id and text of the replies that are rated, in the order in which they are shown.
        annotator: whom it is for.
        vote: number of the annotator's vote, from 0.
        repeat: 0, or 1 where the same is asked once more.
    """

    client: str
    replies: tuple[tuple[str, str], ...]
    annotator: str
    vote: int
    repeat: int


@dataclass
class RatingPlan:
    """What to ask of which annotators; figures of what is not asked stand in `skipped` once `asks` has been used up.

    Attributes:
        repeat: the share of calls that are made once more.
        crisis_to_third_parties: whether annotators that belong to others see crisis speeches.
        skipped: annotator and reason -> replies that it does not rate.
    """

    annotators: Sequence[LanguageModel]
    prompt: RatingPrompt
    votes: int
    repeat: float
    seed: int
    crisis_to_third_parties: bool
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)

    def asks(self, speeches: Iterable[tuple[Row, list[Row]]]) -> Iterator[tuple[LanguageModel, RatingAsk]]:
        """All calls, for speeches (`speech`, `text`, `language`, `crisis`) with their replies (`reply`, `text`)."""
        for speech, rows in speeches:
            replies = {row["reply"]: row["text"] for row in rows if row["text"] is not None}  # an equal text counts once
            for annotator in self.annotators if replies else ():
                if reason := self._reason_against(annotator, speech):
                    self.skipped[annotator.name, reason] += len(replies)
                    continue
                calls = [[*replies.items()]] if self.prompt.joint else [[each] for each in replies.items()]
                for call in calls:
                    yield from ((annotator, ask) for ask in self._votes(annotator, speech, call))

    def _reason_against(self, annotator: LanguageModel, speech: Row) -> str | None:
        if speech["crisis"] and annotator.is_third_party() and not self.crisis_to_third_parties:
            return "crisis"
        return "language" if annotator.language not in (None, speech["language"]) else None

    def _votes(self, annotator: LanguageModel, speech: Row, call: list[tuple[str, str]]) -> Iterator[RatingAsk]:
        rounds = [(vote, 0) for vote in range(self.votes)]
        about = (speech["speech"], *(identity for identity, _ in call))
        if _number(self.seed, "repeat", *about) < self.repeat * 2**64:
            rounds.append((0, 1))
        for vote, repeat in rounds:
            part = f"repeat {repeat} vote {vote}" if repeat else f"vote {vote}"
            name = (*about, annotator.name, part)
            shown = sorted(call, key=lambda each: _number(self.seed, "order", *name, each[0]))  # noqa: B023
            order = principle_order(_number(self.seed, "principles", *name))
            yield RatingAsk(
                speech=speech["speech"],
                messages=self.prompt.messages(speech["text"], [text for _, text in shown], order),
                seed=_number(self.seed, "seed", *name) >> 33,  # servers take 31 bits
                part=part,
                schema=self.prompt.schema(order, len(shown)),
                client=speech["text"],
                replies=tuple(shown),
                annotator=annotator.name,
                vote=vote,
                repeat=repeat,
            )


def _number(seed: int, *parts: str) -> int:
    """64 bits that depend on all of this, on every machine alike."""
    return int.from_bytes(hashlib.sha256("\0".join([str(seed), *parts]).encode()).digest()[:8], "big")
