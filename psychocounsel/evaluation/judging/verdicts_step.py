"""The step `verdicts`: judges compare the model's replies with an opponent's, or with its own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

from psychocounsel.asking.answers import Answers, asks_of, odd_outcomes
from psychocounsel.asking.budget import Estimate
from psychocounsel.asking.language_model import EMPTY, TEXT, TOO_LONG, WITHHELD, LanguageModel
from psychocounsel.evaluation.contestants import replies_step
from psychocounsel.evaluation.judging.bias import judge_warnings
from psychocounsel.evaluation.judging.pairs import (
    EQUAL,
    SCHEMA,
    JudgeCall,
    Judging,
    ReplyPair,
    by_usual_model,
    judged_pairs,
    pair_prompt,
    read_verdict,
)
from psychocounsel.evaluation.judging.served_models import MOST_FREQUENT, answered_by, mixed_models
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.buying import buy
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import Row, by_speech, rows_of, written
from psychocounsel.storage.files import with_noun

_SPEECH = ("speech", "messages", "language", "crisis", "near_training")
_WITH_VERDICT = (TEXT, EQUAL, EMPTY)  # an empty reply loses without a call, and equal replies tie
REPLY = ("setting", "seed", "length_limit", "sample", "reply", "text", "outcome", "model")


Pairs = Callable[[StepContext[EvaluationDir]], Iterator[ReplyPair]]
Calls = Callable[[], Iterator[JudgeCall]]


def run(context: StepContext[EvaluationDir], pairs: Pairs | None = None) -> dict[str, Any]:
    """Ask the judges for all verdicts missing in the journal and write verdicts.parquet, ordered by speech.

    `pairs` yields the pairs to compare; None: each reply of the model with each opponent's.

    Raises:
        BudgetSpent: if the budget ends before all verdicts are bought; the journal keeps the bought ones.
        UserError: if a key, an address or the rubric is wrong, or no server answers any more.
    """
    config, judging = context.config, judging_of(context)
    near = sum(row["near_training"] for row in rows_of(context.files.speeches, ["near_training"]))
    if near and not config.evaluation.include_near:
        context.say(
            f"{near:,} speeches are skipped, because they are near-duplicates of training data; "
            "evaluation.include_near=true takes them"
        )

    def calls() -> Iterator[JudgeCall]:
        return judging.calls((pairs or _pairs)(context))

    with closing(Answers(context.files.answers, context.shard)) as answers:
        budget = buy(
            asks_of(calls()),
            answers,
            config.budget,
            models=judging.judges,
            key="judge",
            read=read_verdict,
            retries=config.evaluation.retries,
            count=sum(1 for _ in asks_of(calls())),
            bar=context.bar,
            what="verdicts",
        )
        figures = _write(context, judging, answers, calls)
    for line in _said(figures):
        context.say(line)
    return {**figures, "spent": budget.spent, "bought": budget.made}


def judging_of(context: StepContext[EvaluationDir]) -> Judging:
    """Return the judges and their settings from the configuration."""
    config = context.config
    judges: Sequence[LanguageModel] = build(config, "judge").models()
    settings = config.evaluation
    reads = any(judge.reads_prompts for judge in judges)
    prompt = pair_prompt(settings.rubric, settings.examples) if reads else None
    return Judging(judges, prompt, settings.seed, config.crisis_to_third_parties)


def to_ask(context: StepContext[EvaluationDir], without_replies: bool) -> list[str]:
    """Return the lines of a dry run: reasons to distrust the judges, which a run says beside its win rates, and the calls.

    With `without_replies`, placeholder texts of typical length replace the replies that are not written yet.
    """
    judging = judging_of(context)
    with closing(Answers(context.files.answers)) as answers:
        pairs = _imagined(context, answers) if without_replies else _pairs(context)
        return [*judge_warnings(context.config), *Estimate.of(asks_of(judging.calls(pairs)), answers).lines("verdicts")]


def speech_rows(context: StepContext[EvaluationDir]) -> dict[str, Row]:
    """Return the speeches that judges compare replies to, by id, with their messages."""
    near = context.config.evaluation.include_near
    return {
        name: {**speech, "messages": json.loads(speech["messages"])}
        for name, (speech,) in by_speech(context.files.speeches, _SPEECH)
        if near or not speech["near_training"]
    }


def _pairs(context: StepContext[EvaluationDir]) -> Iterator[ReplyPair]:
    """Yield the pairs of all speeches; speeches nearly the same as training data only with `evaluation.include_near`."""
    setting = context.config.contestants.settings[0]
    speeches = speech_rows(context)
    for name, replies in by_speech(context.files.replies, REPLY):
        if name in speeches:
            yield from judged_pairs(speeches[name], replies, setting)


def _imagined(context: StepContext[EvaluationDir], answers: Answers) -> Iterator[ReplyPair]:
    setting, replies = context.config.contestants.settings[0], replies_step.imagined_replies(context, answers)
    for name, speech in speech_rows(context).items():
        yield from judged_pairs(speech, replies.get(name, []), setting)


def _write(context: StepContext[EvaluationDir], judging: Judging, answers: Answers, calls: Calls) -> dict[str, Any]:
    """Write verdicts.parquet from the journal's answers; returns the step's figures."""

    def rows() -> Iterator[Row]:
        return (judging.row(call, answers, context.config.evaluation.retries) for call in calls())

    outcomes: dict[str, Counter[str]] = {judge.name: Counter() for judge in judging.judges}
    models = answered_by(rows())
    with written(context.files.verdicts, SCHEMA) as add:
        for row in rows():
            row = by_usual_model(row, models)
            add(row)
            outcomes[row["judge"]][row["outcome"]] += 1
    return {
        "verdicts": sum(counts.total() for counts in outcomes.values()),
        "outcomes": {name: dict(counts) for name, counts in outcomes.items()},
        "models": {name: dict(counts) for name, counts in models.items()},
    }


def _said(figures: dict[str, Any]) -> Iterator[str]:
    given = sum(counts.get(outcome, 0) for counts in figures["outcomes"].values() for outcome in _WITH_VERDICT)
    yield f"{given:,} of {figures['verdicts']:,} verdicts"
    for name, counts in figures["outcomes"].items():
        if odd := odd_outcomes(counts, _WITH_VERDICT):
            yield f"judge {name}: calls without a verdict: {odd}; no figure includes them"
        if counts.get(WITHHELD):
            yield (
                f"judge {name}: speeches that may be about a crisis are withheld because a third party runs this judge; "
                "crisis_to_third_parties=true sends them"
            )
        if counts.get(TOO_LONG):
            yield f"judge {name}: {with_noun(counts[TOO_LONG], 'pair')} with a reply that is too long for the reward model"
    for line in mixed_models(figures["models"], MOST_FREQUENT):
        yield f"warning: {line}"
