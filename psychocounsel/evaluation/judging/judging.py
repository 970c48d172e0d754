"""Which calls judges are asked for two replies: both orders of a judge that reads a prompt, one of a judge that scores."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from psychocounsel.asking.language_model import OTHER_LANGUAGE, WITHHELD, LanguageModel
from psychocounsel.asking.parties import may_see
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.evaluation.judging.pair_prompt import PairAsk, PairPrompt, verdict_schema
from psychocounsel.evaluation.judging.verdict_rows import BACKWARD, EQUAL, FORWARD, ReplyPair
from psychocounsel.steps.tables import Row


@dataclass(frozen=True)
class JudgeCall:
    """What one judge is asked about a pair in one order; without an `ask`, `outcome` says why."""

    pair: ReplyPair
    judge: LanguageModel
    order: str
    ask: PairAsk | None = None
    outcome: str | None = None


@dataclass(frozen=True)
class Judging:
    """How pairs are judged.

    Attributes:
        prompt: None where no judge reads one.
        votes: verdicts of each judge on each pair in each order.
        crisis_to_third_parties: whether judges that belong to others see crisis speeches.
    """

    judges: Sequence[LanguageModel]
    prompt: PairPrompt | None
    seed: int
    crisis_to_third_parties: bool

    def version(self, judge: LanguageModel) -> str | None:
        """The prompt's version, of a judge that reads it."""
        return self.prompt.version if self.prompt and judge.reads_prompts else None

    def calls(self, pairs: Iterable[ReplyPair]) -> Iterator[JudgeCall]:
        """Every call about `pairs`, in their order. Names of contestants are in none of them."""
        for pair in pairs:
            for judge in self.judges:
                orders = (FORWARD, BACKWARD) if judge.reads_prompts else (FORWARD,)
                if pair.first["text"] == pair.second["text"]:
                    yield from (JudgeCall(pair, judge, order, outcome=EQUAL) for order in orders)
                elif judge.language not in (None, pair.speech.get("language")):
                    yield from (JudgeCall(pair, judge, order, outcome=OTHER_LANGUAGE) for order in orders)
                elif not may_see(judge, pair.speech["crisis"], self.crisis_to_third_parties):
                    yield from (JudgeCall(pair, judge, order, outcome=WITHHELD) for order in orders)
                else:
                    yield from (JudgeCall(pair, judge, order, self._ask(pair, judge, order)) for order in orders)

    def _ask(self, pair: ReplyPair, judge: LanguageModel, order: str) -> PairAsk:
        texts = (pair.first["text"], pair.second["text"])
        replies = texts if order == FORWARD else (texts[1], texts[0])
        conversation = tuple(pair.speech["messages"])
        number = _number(self.seed, pair.speech["speech"], *replies)
        if judge.reads_prompts:
            assert self.prompt is not None
            principles = _rotated(min(number, _number(self.seed, pair.speech["speech"], *replies[::-1])))
            messages, schema = self.prompt.messages(conversation, replies, principles), verdict_schema(principles)
        else:
            shown = ({"role": "assistant", "content": reply} for reply in replies)
            messages, schema = (*conversation, *shown), None
        return PairAsk(
            speech=pair.speech["speech"],
            messages=messages,
            seed=number % (1 << 32),
            part="verdict",
            schema=schema,
            conversation=conversation,
            replies=replies,
            scored=not judge.reads_prompts,
        )


def _rotated(number: int) -> tuple[str, ...]:
    """The principles, beginning with another one by each number: the first one colours the others. Both orders have the same."""
    start = number % len(PRINCIPLES)
    return PRINCIPLES[start:] + PRINCIPLES[:start]


def _number(seed: int, *parts: str) -> int:
    """64 bits that depend on all of this, on every machine alike."""
    text = "\0".join([str(seed), *parts]).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:8])


def judged_pairs(speech: Row, replies: Sequence[Row], setting: str) -> Iterator[ReplyPair]:
    """The pairs of one speech: each reply of `setting` with each opponent's of the same limit and sample.

    Where both settings have several seeds, equal ones meet; otherwise every seed of the one meets every seed of the other.
    Replies without a text are in no pair: nothing is scored that is not there.
    """
    seeds: dict[str, set[int]] = {}
    for row in replies:
        seeds.setdefault(row["setting"], set()).add(row["seed"])
    for first in replies:
        if first["setting"] != setting or not first["text"]:
            continue
        for second in replies:
            alike = all(first[name] == second[name] for name in ("length_limit", "sample"))
            meet = first["seed"] == second["seed"] or seeds[setting] != seeds[second["setting"]]
            if second["setting"] != setting and second["text"] and alike and meet:
                yield ReplyPair(speech, first, second)
