"""Judges asked through Inspect, with the prompts, retries and answer parser of our own evaluations."""

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
_ANSWER_TOKENS, _RETRIES = 2048, 2  # the defaults of conf/judge and conf/evaluation
_ROLES: dict[str, Any] = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}


@dataclass(kw_only=True)
class AskedByInspect(LanguageModel):
    """Judge that Inspect calls; only its name is known here."""

    def open(self, key: str) -> Answerer:
        raise UserError(f"{key}: Inspect asks {self.name} itself")


def chat(messages: Sequence[Message]) -> list[ChatMessage]:
    """Convert messages to Inspect's classes."""
    return [_ROLES[each["role"]](content=each["content"]) for each in messages]


async def asked(judge: Model, ask: Ask, name: str, read: Callable[[str], T]) -> Outcome[T]:
    """Ask a judge and return the outcome. After an unreadable answer, the judge is asked again.

    `name`: name of the JSON schema that the answer must follow.
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
    """Return a model's answer without its thoughts, with the reason why it stopped."""
    return Answer(_STOPS.get(output.stop_reason, TEXT), without_thoughts(output.completion), output.model)


@metric
def told() -> Metric:
    """Return a metric: the mean over the replies for which a figure is known; NaN without such replies."""

    def of(scores: list[SampleScore]) -> float:
        values = [value for each in scores if not math.isnan(value := each.score.as_float())]
        return sum(values) / len(values) if values else math.nan

    return of
