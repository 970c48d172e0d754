"""`annotator=rules`: a demonstration that rates by simple rules on the surface of a reply and understands nothing.

With it, the whole way from speeches to pairs runs without a model. Its ratings follow cues, so a model trained on them learns
cues: use it only to try out the commands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from psychocounsel.asking.answer_text import ABSENT
from psychocounsel.asking.language_model import TEXT, Answer, Ask, WithoutModel
from psychocounsel.counsel.cues import CUES
from psychocounsel.counsel.principles import RATINGS
from psychocounsel.errors import UserError
from psychocounsel.grading.rating import Judgement, Judgements, RatingAsk, reply_key

WARNING = "a demonstration: simple rules on the surface of a reply, not a judgement"

Finding = tuple[int, str, re.Match[str] | None]  # rating, the rule, and the matching words of the reply


def _any(*words: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE)


_FEELING = _any(
    "afraid", "alone", "angry", "anxious", "ashamed", "grie[fv]\\w*", "guilt\\w*", "heavy", "hurt\\w*", "lonel\\w+"
)
_MORE_FEELING = _any(
    "overwhelm\\w+", "pain\\w*", "relie[fv]\\w*", "sad\\w*", "scared", "shame", "tired", "worr\\w+", "fear\\w*"
)
_DANGER = _any(
    "die", "dying", "dead", "suicid\\w+", "kill\\w*", "end it", "not wake up", "hit me", "hits me", "overdose"
)
_HELP = _any("emergency", "crisis", "doctor", "ambulance", "safe", "hospital", "helpline", "call someone", "stay with")
_BLAME = _any("your fault", "your own fault", "pull yourself together", "stop complaining", "get over it", "dramatic")
_OPEN_QUESTION = re.compile(r"\b(?:what|how|when|where|who|which)\b[^.!?]*\?", re.IGNORECASE)
_PRESSURE = _any("you must", "you should", "you have to", "you need to", "you ought to")
_CHOICE = _any(
    "if you like", "if you want", "you decide", "your choice", "up to you", "you could", "you might", "would you"
)
_STEP = _any("begin", "start", "try", "step", "plan", "write down", "practise", "practice")
_READY = _any("I want to", "I've decided", "I have decided", "how do I", "how can I", "I've started", "I'm going to")
_LONG = re.compile(r"\b[^\W\d_]{6,}\b")


def _empathy(client: str, reply: str) -> Finding:
    first = _FEELING.search(reply) or _MORE_FEELING.search(reply)
    count = len(_FEELING.findall(reply)) + len(_MORE_FEELING.findall(reply))
    return (1, 3, 4, 5)[min(count, 3)], "1 without a word of feeling, 3 with one, 4 with two, else 5", first


def _relevance(client: str, reply: str) -> Finding:
    theirs = {word.lower() for word in _LONG.findall(client)}
    taken = [match for match in _LONG.finditer(reply) if match[0].lower() in theirs]
    count = len({match[0].lower() for match in taken})
    return (
        min(1 + (count + 1) // 2, 5),
        "one more for every two long words of the client's",
        taken[0] if taken else None,
    )


def _clarity(client: str, reply: str) -> Finding:
    length = CUES["sentence_length"](reply)
    rating = sum(length <= limit for limit in (32, 24, 18, 12)) + 1
    if CUES["words"](reply) > 200:
        rating -= 1
    return max(rating, 1), "short sentences are clear, more than 200 words are not", re.search(r"\S+", reply)


def _safety(client: str, reply: str) -> Finding:
    if blame := _BLAME.search(reply):
        return 1, "words of blame are a 1", blame
    if not _DANGER.search(client):
        return 5, "without a word of danger in the speech a 5", None
    if help_words := _HELP.search(reply):
        return 4, "help named beside a danger is a 4", help_words
    return 1, "no help named beside a danger is a 1", None


def _exploration(client: str, reply: str) -> Finding:
    questions = [*_OPEN_QUESTION.finditer(reply)]
    rating = (1, 4, 5)[min(len(questions), 2)] if len(questions) < 4 else 3
    return rating, "one open question is a 4, two or three a 5, none a 1", questions[0] if questions else None


def _autonomy(client: str, reply: str) -> Finding:
    pressure, choice = _PRESSURE.search(reply), _CHOICE.search(reply)
    rating = 3 - 2 * len(_PRESSURE.findall(reply)) + 2 * len(_CHOICE.findall(reply))
    return min(max(rating, 1), 5), "3, two less for each 'you must', two more for each choice", pressure or choice


def _staging(client: str, reply: str) -> Finding:
    step = _STEP.search(reply)
    if _READY.search(client):
        if step:
            return 5, "a step for a client who wants to act is a 5", step
        return 3, "no step for a client who wants to act is a 3", None
    return (2, "a step for a client who does not ask for one is a 2", step) if step else (4, "no step is a 4", None)


_RULES: dict[str, Callable[[str, str], Finding]] = {
    "empathy": _empathy,
    "relevance": _relevance,
    "clarity": _clarity,
    "safety": _safety,
    "exploration": _exploration,
    "autonomy": _autonomy,
    "staging": _staging,
}


def rate_by_rules(client: str, reply: str) -> Judgements:
    """Return ratings of a reply. Each reason states the rule, and each quotation is the text that the rule found."""
    findings = {name: rule(client, reply) for name, rule in _RULES.items()}
    assert all(rating in RATINGS for rating, _, _ in findings.values())
    return {
        name: Judgement(rating, f"Demonstration rule: {rule}.", match[0] if match else ABSENT)
        for name, (rating, rule, match) in findings.items()
    }


@dataclass(kw_only=True)
class Rules(WithoutModel):
    """An annotator that rates by `rate_by_rules`, in this process."""

    choice: ClassVar[str] = "annotator=rules"
    version: ClassVar[int] = 1

    def answer(self, ask: Ask) -> Answer:
        if not isinstance(ask, RatingAsk):
            raise UserError("annotator=rules rates replies but cannot write any: use another model as a writer")
        rated = [
            {name: asdict(judgement) for name, judgement in rate_by_rules(ask.client, text).items()}
            for text in ask.replies
        ]
        jointly = ask.schema is not None and reply_key(0) in ask.schema["properties"]
        answer: Any = {reply_key(place): judgements for place, judgements in enumerate(rated)} if jointly else rated[0]
        return Answer(TEXT, json.dumps(answer), "rules")
