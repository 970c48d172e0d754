"""Helpers for tests of evaluations with contestants: files of replies, answers of judges and checked configurations."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.course import StepContext
from tests.support.composed import checked
from tests.support.harness import write_jsonl

PROMPTS = [f"Since week {number} I cannot sleep, and nobody at home has noticed yet." for number in range(12)]


def data(folder: Path, prompts: Sequence[str] = PROMPTS) -> list[str]:
    """Write a data file with these prompts, and return the overrides that select it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt": prompt, "chosen": "What keeps you awake?", "rejected": "Sleep more."} for prompt in prompts]
    return [f"data.path={write_jsonl(folder / 'data.jsonl', rows)}", "data=local", "part=all"]


def replies(file: Path, write: Callable[[str], str], prompts: Sequence[str] = PROMPTS) -> Path:
    """Write a file with one reply to each prompt."""
    return write_jsonl(file, [{"prompt": prompt, "reply": write(prompt)} for prompt in prompts])


def contest(*overrides: str) -> DictConfig:
    """Return the checked configuration of an evaluation, as its command composes it."""
    return checked(*overrides, name="evaluate")


class Recorder:
    """Recorder of a server's requests, in order of arrival. `answer`, if given, replaces the usual answer."""

    def __init__(self, answer: Callable[[Any, int], Any] | None = None) -> None:
        self.payloads, self.answer = list[Any](), answer

    def __call__(self, payload: Any, number: int) -> Any:
        if payload["messages"][-1]["content"] == "Hello.":  # the client's check that the server answers
            return None
        self.payloads.append(payload)
        return self.answer(payload, number) if self.answer else None


def context(config: DictConfig, folder: Path, said: list[str] | None = None) -> StepContext[EvaluationDir]:
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = [] if said is None else said
    return StepContext(config, EvaluationDir(folder), lines.append, lambda items, *_, **__: items)


def verdict(side: str) -> str:
    """Return the answer of a judge that prefers `side` on every principle and overall."""
    each = {"reason": "It fits.", "better": side}
    return json.dumps({**dict.fromkeys(PRINCIPLES, each), "overall": each})


def shown(payload: Any) -> tuple[str, str]:
    """Return the two replies in the order in which the judge sees them."""
    parts = payload["messages"][-1]["content"].split("\n\n<")
    first, second = (part.split(">\n", 1)[1].rsplit("\n</", 1)[0] for part in parts[1:3])
    return first, second
