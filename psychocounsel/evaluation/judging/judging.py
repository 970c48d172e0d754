"""The calls to judges about pairs of replies.

A judge that reads a prompt is called twice, once for each order of the replies. A reward model is called once.
"""

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
    """One question to one judge about a pair in one order. If `ask` is None, the judge is not called; `outcome` says why."""

    pair: ReplyPair
    judge: LanguageModel
    order: str
    ask: PairAsk | None = None
    outcome: str | None = None


@dataclass(frozen=True)
class Judging:
    """The judges and the settings of their calls.

    Attributes:
        judges: language models and reward models.
        prompt: the prompt of judges that read one; None if no judge does.
        seed: decides the order of the principles and the seed of each call.
        crisis_to_third_parties: True if judges run by others may see crisis speeches.
    """

    judges: Sequence[LanguageModel]
    prompt: PairPrompt | None
    seed: int
    crisis_to_third_parties: bool

    def version(self, judge: LanguageModel) -> str | None:
        """Return the prompt's version; None for a judge that reads no prompt."""
        return self.prompt.version if self.prompt and judge.reads_prompts else None

    def calls(self, pairs: Iterable[ReplyPair]) -> Iterator[JudgeCall]:
        """Yield every call about `pairs`, in the order of the pairs. No `ask` contains the name of a contestant."""
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
    """Return the principles, starting with a principle that `number` selects.

    The start varies between pairs because the principle judged first influences the others. Both orders of a pair share
    one start.
    """
    start = number % len(PRINCIPLES)
    return PRINCIPLES[start:] + PRINCIPLES[:start]


def _number(seed: int, *parts: str) -> int:
    """Return a 64-bit hash of all arguments; it is the same on every machine."""
    text = "\0".join([str(seed), *parts]).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:8])


def judged_pairs(speech: Row, replies: Sequence[Row], setting: str) -> Iterator[ReplyPair]:
    """Yield the pairs of one speech: each reply of `setting` with each opponent's reply of the same length limit and sample.

    If both settings have the same training seeds, replies with equal seeds are paired. Otherwise each seed of one setting is
    paired with each seed of the other. Replies without a text are skipped because there is nothing to compare.
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
