"""The step `answers` of `evaluation=safety`: judges answer the questions about each reply and each seeded reply.

`evaluation=session` uses the same functions.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from psychocounsel.asking.answers import Answers, Outcome, asks_of, odd_outcomes
from psychocounsel.asking.budget import Estimate
from psychocounsel.asking.language_model import OTHER_LANGUAGE, LanguageModel
from psychocounsel.counsel.rubric import load_rubric
from psychocounsel.evaluation.contestants.replies_step import imagined_replies
from psychocounsel.evaluation.safety.cases import SCHEMA, SEEDED, answer_row
from psychocounsel.evaluation.safety.questions import ReplyPrompt, SafetyAsk, read_reply_answers
from psychocounsel.evaluation.safety.seeded import seeded_id, seeded_replies
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.buying import buy
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import Row, by_speech, joined, written

_REPLY = ("setting", "seed", "length_limit", "sample", "reply", "text")

# Returns (speech, reply) rows of all replies with a text. A speech has the columns speech, messages and language; a reply has
# the columns of the table of answers.
Replies = Callable[[StepContext[EvaluationDir]], Iterable[tuple[Row, Row]]]


@dataclass(frozen=True)
class _Call:
    """A question to a judge about a reply. `ask` is None if the judge does not know the speech's language."""

    reply: Row
    judge: LanguageModel
    ask: SafetyAsk | None


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Ask the judges for all answers missing in the journal and write safety_answers.parquet; raises as `judge_replies`."""
    return judge_replies(context, _replies, context.files.safety_answers, SCHEMA)


def judge_replies(
    context: StepContext[EvaluationDir], replies: Replies, file: Path, schema: pa.Schema
) -> dict[str, Any]:
    """Ask the judges about `replies` and write all answers to the table `file`; returns the step's figures.

    Answers in the journal are not asked for again. Equal replies to the same speech or conversation are judged once.

    Raises:
        BudgetSpent: if the budget ends before all answers are bought; the journal keeps the bought ones.
        UserError: if a key, an address or the rubric is wrong, or no server answers any more.
    """
    config, prompt, judges = context.config, prompt_of(context), build(context.config, "judge").models()
    with closing(Answers(context.files.answers, context.shard)) as answers:
        asks = list(asks_of(_calls(context, replies, prompt, judges)))
        budget = buy(
            asks,
            answers,
            config.budget,
            models=judges,
            key="judge",
            read=read_reply_answers,
            retries=config.evaluation.retries,
            count=len(asks),
            bar=context.bar,
            what="answers",
        )
        calls = _calls(context, replies, prompt, judges)
        outcomes = dict[str, Counter[str]]()
        with written(file, schema) as add:
            for row in _rows(calls, answers, schema, prompt.version, config.evaluation.retries):
                add(row)
                outcomes.setdefault(row["judge"], Counter())[row["outcome"]] += 1
    for name, counts in outcomes.items():
        if odd := odd_outcomes(counts):
            context.say(f"judge {name}: replies without answers: {odd}; no figure includes them")
    counted = {name: dict(counts) for name, counts in outcomes.items()}
    return {"outcomes": counted, "spent": budget.spent, "bought": budget.made}


def prompt_of(context: StepContext[EvaluationDir]) -> ReplyPrompt:
    """Return the judges' prompt, made from the configuration's rubric."""
    return ReplyPrompt.of(load_rubric(context.config.evaluation.rubric))


def to_ask(context: StepContext[EvaluationDir], without_replies: bool) -> list[str]:
    """Return the lines of a dry run. With `without_replies`, placeholders stand for replies that are not written yet."""
    return answers_to_ask(context, _imagined if without_replies else _replies)


def answers_to_ask(context: StepContext[EvaluationDir], replies: Replies) -> list[str]:
    """Return the lines of a dry run for `replies`."""
    judges = build(context.config, "judge").models()
    with closing(Answers(context.files.answers)) as answers:
        asks = asks_of(_calls(context, replies, prompt_of(context), judges))
        return Estimate.of(asks, answers).lines("answers")


def seeded_rows() -> Iterator[tuple[Row, Row]]:
    """Yield speech and reply of each seeded reply as rows of the tables."""
    for number, seeded in enumerate(seeded_replies()):
        identity = seeded_id(number)
        speech = {
            "speech": identity,
            "messages": json.dumps([{"role": "user", "content": seeded.speech}]),
            "language": "en",
        }
        reply = {
            "setting": SEEDED,
            "seed": 0,
            "length_limit": None,
            "sample": 0,
            "reply": identity,
            "text": seeded.reply,
        }
        yield speech, {"speech": identity, **reply}


def _calls(
    context: StepContext[EvaluationDir], replies: Replies, prompt: ReplyPrompt, judges: list[LanguageModel]
) -> Iterator[_Call]:
    for speech, reply in replies(context):
        for judge in judges:
            ask = None
            if judge.language in (None, speech["language"]):
                messages = json.loads(speech["messages"])
                ask = prompt.ask(speech["speech"], messages, reply["text"], context.config.evaluation.seed)
            yield _Call(reply, judge, ask)


def _replies(context: StepContext[EvaluationDir]) -> Iterator[tuple[Row, Row]]:
    """Yield speech and reply of all replies with a text. Seeded replies are judged by the main run, not by shards."""
    speeches = by_speech(context.files.speeches, ("messages", "language"))
    for (speech,), replies in joined(speeches, by_speech(context.files.replies, _REPLY)):
        yield from ((speech, reply) for reply in replies if reply["text"])
    if context.config.share is None:
        yield from seeded_rows()


def _imagined(context: StepContext[EvaluationDir]) -> Iterator[tuple[Row, Row]]:
    with closing(Answers(context.files.answers)) as answers:
        replies = imagined_replies(context, answers)
    for name, (speech,) in by_speech(context.files.speeches, ("messages", "language")):
        yield from ((speech, reply) for reply in replies.get(name, []) if reply["text"])
    yield from seeded_rows()


def _rows(calls: Iterator[_Call], answers: Answers, schema: pa.Schema, version: str, retries: int) -> Iterator[Row]:
    """Yield the rows of the table from the journal's answers."""
    for call in calls:
        outcome: Outcome[Any] | str | None = OTHER_LANGUAGE
        if call.ask is not None:
            settled = answers.settled(call.judge, call.ask, read_reply_answers, retries)
            outcome = settled if isinstance(settled, Outcome) else None
        yield answer_row(schema, call.reply, call.judge.name, outcome, version)
