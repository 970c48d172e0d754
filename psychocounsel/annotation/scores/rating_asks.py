"""Plans the calls to annotators: each reply is rated `scores.votes` times, and a share of replies again for test-retest."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from psychocounsel.annotation.scores.rating_answers import Judgements
from psychocounsel.annotation.scores.rating_prompts import RatingPrompt, principle_order
from psychocounsel.asking.language_model import Ask, LanguageModel
from psychocounsel.asking.parties import may_see
from psychocounsel.asking.strict_json import Unreadable
from psychocounsel.steps.tables import Row


@dataclass(frozen=True, kw_only=True)
class RatingAsk(Ask):
    """A call that rates replies to one speech; `client` is the speech's text, `replies` are the texts in the order shown."""

    client: str
    replies: tuple[str, ...]

    def check_value(self, value: Sequence[Judgements] | None) -> None:
        """Raise Unreadable if the number of rated replies differs from the number shown."""
        if value is not None and len(value) != len(self.replies):
            raise Unreadable(f"rates {'fewer' if len(value) < len(self.replies) else 'more'} replies than were shown")


@dataclass(frozen=True)
class RatingCall:
    """One rating task of an annotator.

    Attributes:
        speech: a row of speeches.parquet.
        replies: id and text of each reply, in the order shown.
        vote: number of the annotator's vote, from 0.
        repeat: 0, or 1 for the repetition of a vote.
    """

    annotator: LanguageModel
    speech: Row
    replies: Sequence[tuple[str, str]]
    vote: int
    repeat: int

    @property
    def part(self) -> str:
        return f"repeat {self.repeat} vote {self.vote}" if self.repeat else f"vote {self.vote}"


@dataclass(frozen=True)
class RatingPlan:
    """Settings that decide which calls are made.

    Attributes:
        votes: number of ratings of each reply by each annotator.
        repeat: the share of replies (with a joint prompt: of speeches) that each annotator rates a second time.
        crisis_to_third_parties: whether annotators that are third parties may see crisis speeches.
    """

    annotators: Sequence[LanguageModel]
    prompt: RatingPrompt
    votes: int
    repeat: float
    seed: int
    crisis_to_third_parties: bool

    def calls(self, speech: Row, replies: Sequence[Row]) -> Iterator[RatingCall]:
        """Yield the calls for one speech and its replies.

        `speech` needs the columns `speech`, `text`, `language` and `crisis`; `replies` need `reply` and `text`.
        """
        # A dictionary, so that each reply id occurs once.
        texts = [*{row["reply"]: row["text"] for row in replies if row["text"] is not None}.items()]
        together = [texts] if self.prompt.joint and texts else [[each] for each in texts]
        for annotator in self.annotators:
            if self.reason_against(annotator, speech) is None:
                for each in together:
                    yield from self._rounds(annotator, speech, each)

    def reason_against(self, annotator: LanguageModel, speech: Row) -> str | None:
        """Return why an annotator must not rate replies to a speech (`language` or `crisis`), or None if it may."""
        if annotator.language not in (None, speech["language"]):
            return "language"
        return None if may_see(annotator, speech["crisis"], self.crisis_to_third_parties) else "crisis"

    def _rounds(self, annotator: LanguageModel, speech: Row, texts: list[tuple[str, str]]) -> Iterator[RatingCall]:
        rounds = [(vote, 0) for vote in range(self.votes)]
        about = (speech["speech"], *(identity for identity, _ in texts))
        if _number(self.seed, "repeat", *about) < self.repeat * 2**64:
            rounds.append((0, 1))
        for vote, repeat in rounds:
            draw = ("order", *about, annotator.name, str(vote), str(repeat))
            shown = sorted(texts, key=lambda each: _number(self.seed, *draw, each[0]))
            yield RatingCall(annotator, speech, shown, vote, repeat)

    def ask(self, call: RatingCall) -> RatingAsk:
        """Return the Ask of a call."""
        speech, texts = call.speech, tuple(text for _, text in call.replies)
        about = (speech["speech"], *(identity for identity, _ in call.replies), call.annotator.name, call.part)
        order = principle_order(_number(self.seed, "principles", *about))
        return RatingAsk(
            speech=speech["speech"],
            messages=self.prompt.messages(speech["text"], texts, order),
            seed=_number(self.seed, "seed", *about) >> 32,
            part=call.part,
            schema=self.prompt.schema(order, len(texts)),
            client=speech["text"],
            replies=texts,
        )


def _number(seed: int, *parts: str) -> int:
    """Return a 64-bit hash of the arguments, the same on every machine."""
    return int.from_bytes(hashlib.sha256("\0".join([str(seed), *parts]).encode()).digest()[:8])
