"""Annotator whose answer to every attempt is given by a script, so that tests can check complete tables."""

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from psychocounsel.asking.language_model import TEXT, Answer, Answerer, Ask, LanguageModel
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.grading.rating import RatingAsk

script: dict[tuple[str, str], list[Answer]] = {}  # (annotator, reply) -> answers in order; the last one repeats
asked: Counter[tuple[str, str]] = Counter()


def judgements(ratings: Sequence[Any], quote: str = "absent") -> dict[str, Any]:
    """Return the JSON object for one reply, with ratings in the order of PRINCIPLES."""
    return {
        name: {"quote": quote, "reason": f"Because of {name}.", "rating": rating}
        for name, rating in zip(PRINCIPLES, ratings, strict=True)
    }


def said(answer: Any, model: str = "m-1") -> Answer:
    return Answer(TEXT, answer if isinstance(answer, str) else json.dumps(answer), model, 100, 10)


@dataclass(kw_only=True)
class ScriptedAnnotator(LanguageModel):
    def open(self, key: str) -> Answerer:
        return _Scripted(self.name)


class _Scripted(Answerer):
    slots = 4

    def __init__(self, name: str) -> None:
        self.name = name

    def submit(self, ask: Ask, seed: int) -> Future[Answer]:
        assert isinstance(ask, RatingAsk)
        key = (self.name, "|".join(sorted(ask.replies)))
        answers, place = script[key], asked[key]
        asked[key] += 1
        future: Future[Answer] = Future()
        future.set_result(answers[min(place, len(answers) - 1)])
        return future


def annotator(name: str, **settings: Any) -> dict[str, Any]:
    """Return the annotator's settings as a section of a configuration."""
    return {"_target_": "tests.support.scripted_annotator.ScriptedAnnotator", "name": name, **settings}


def panel(*members: dict[str, Any]) -> dict[str, Any]:
    return {"_target_": "psychocounsel.asking.language_model.Panel", "members": [*members]}
