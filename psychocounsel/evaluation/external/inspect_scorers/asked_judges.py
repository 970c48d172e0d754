"""Judges that Inspect asks: the prompts, retries and reading of answers are those of our own evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelOutput,
    ResponseSchema,
)
from inspect_ai.scorer import Metric, SampleScore, metric
from inspect_ai.util import JSONSchema

from psychocounsel.asking.answers import Outcome, outcome_of
from psychocounsel.asking.language_model import CUT, FILTERED, TEXT, Answer, Answerer, Ask, LanguageModel
from psychocounsel.asking.thoughts import without_thoughts
from psychocounsel.data.rows import Message
from psychocounsel.errors import UserError

T = TypeVar("T")
_STOPS = {"content_filter": FILTERED, "max_tokens": CUT, "model_length": CUT}
_ANSWER_TOKENS, _RETRIES = 2048, 2  # as conf/judge and conf/evaluation have them
_ROLES: dict[str, Any] = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}


@dataclass(kw_only=True)
class AskedByInspect(LanguageModel):
    """A judge of which we know the name alone."""

    def open(self, key: str) -> Answerer:
        raise UserError(f"{key}: Inspect asks {self.name} itself")


def chat(messages: Sequence[Message]) -> list[ChatMessage]:
    """Messages in Inspect's classes."""
    return [_ROLES[each["role"]](content=each["content"]) for each in messages]


async def asked(judge: Model, ask: Ask, name: str, read: Callable[[str], T]) -> Outcome[T]:
    """What came of a call; an answer that cannot be read is asked for anew, as in our own evaluations.

    `name`: of the JSON schema that the answer is to follow.
    """
    schema = ResponseSchema(name=name, json_schema=JSONSchema.model_validate(ask.schema))
    for attempt in range(_RETRIES + 1):
        drawn = GenerateConfig(
            temperature=0.0, seed=ask.seed + attempt, max_tokens=_ANSWER_TOKENS, response_schema=schema
        )
        answer = answer_of(await judge.generate(chat(ask.messages), config=drawn))
        if (outcome := outcome_of(ask, answer, read, attempt, _RETRIES)) is not None:
            return outcome
    raise AssertionError("the last attempt has an outcome")


def answer_of(output: ModelOutput) -> Answer:
    """What a model said, without its thoughts, and how it stopped."""
    return Answer(_STOPS.get(output.stop_reason, TEXT), without_thoughts(output.completion), output.model)


@metric
def told() -> Metric:
    """The mean over replies for which a figure can be told; NaN where there is none."""

    def of(scores: list[SampleScore]) -> float:
        values = [value for each in scores if not math.isnan(value := each.score.as_float())]
        return sum(values) / len(values) if values else math.nan

    return of
