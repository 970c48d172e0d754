"""Step `replies`: every contestant replies to every speech; replies.parquet holds each reply or the reason for its absence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from omegaconf import DictConfig

from psychocounsel.asking.answer_text import is_refusal
from psychocounsel.asking.answers import Answers, Outcome, odd_outcomes
from psychocounsel.asking.budget import IMAGINED_WORDS, Estimate
from psychocounsel.asking.language_model import (
    CUT,
    EMPTY,
    FAILED,
    OTHER_LANGUAGE,
    REFUSED,
    TEXT,
    WITHHELD,
    Ask,
    LanguageModel,
)
from psychocounsel.asking.parties import may_see
from psychocounsel.asking.system_prompts import replies_prompt
from psychocounsel.data.tokenise import with_system_prompt
from psychocounsel.errors import UserError
from psychocounsel.evaluation.contestants.settings import Contestant
from psychocounsel.evaluation.contestants.speeches import SCHEMA as SPEECHES
from psychocounsel.evaluation.contestants.speeches import evaluation_speeches
from psychocounsel.metrics.replies import cut_warning
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.buying import buy
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import Row, rows_of, written
from psychocounsel.storage.text_hashes import seed_of, text_id

SCHEMA = pa.schema(
    [
        pa.field("speech", pa.string(), nullable=False),
        pa.field("contestant", pa.string(), nullable=False),
        pa.field("setting", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("length_limit", pa.int64()),
        pa.field("sample", pa.int64(), nullable=False),
        pa.field("reply", pa.string()),
        pa.field("text", pa.string()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("model", pa.string()),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("completion_tokens", pa.int64()),
        pa.field("prompt_version", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Reply:
    """Reply to obtain. If `ask` is None, the contestant is not asked, and `outcome` is the reason."""

    contestant: Contestant
    speech: Row
    length_limit: int | None
    sample: int
    ask: Ask | None
    outcome: str | None = None


Speeches = Callable[[DictConfig, Callable[[str], None]], Sequence[Row]]


def run(context: StepContext[EvaluationDir], speeches: Speeches = evaluation_speeches) -> dict[str, Any]:
    """Choose the speeches, ask for all replies that the journal lacks, and write speeches.parquet and replies.parquet.

    Raises:
        BudgetSpent: if the budget is spent before all replies are bought; the journal keeps the bought ones.
        UserError: if a key, an address or a prompt is wrong, no server is left, or a contestant has no reply at all.
    """
    write_speeches(context, speeches)
    models = build(context.config, "contestants").models()
    with closing(Answers(context.files.answers, context.shard)) as answers:
        asks = [(reply.contestant.model, reply.ask) for reply in wanted_replies(context) if reply.ask is not None]
        budget = buy(
            asks,
            answers,
            context.config.budget,
            models=models,
            key="contestants",
            count=len(asks),
            bar=context.bar,
            what="replies",
        )
        figures = _write(context, answers)
    _require_replies(context, figures["outcomes"])
    limits = {model.name: model.max_tokens for model in models}
    for line in (*_said(figures), *cut_warnings(figures["outcomes"], figures["cut"], limits)):
        context.say(line)
    return {**figures, "spent": budget.spent, "bought": budget.made}


def _require_replies(context: StepContext[EvaluationDir], outcomes: Mapping[str, Mapping[str, int]]) -> None:
    """Refuse an evaluation whose model, or all of whose other contestants, gave no reply: it could measure nothing."""
    if context.shard[1] > 1:  # a file may have replies to the speeches of other shards
        return
    settings, names = [*context.config.contestants.settings], [*outcomes]
    models = settings.count(settings[0])
    for side in (names[:models], names[models:]):
        if side and all(set(outcomes[name]) == {FAILED} for name in side):
            raise UserError(
                f"{', '.join(side)}: gave no reply to any speech; repeat the command if a server failed. A file of replies needs "
                "the prompts of this evaluation's speeches (speeches.parquet in its directory), a model a context that they fit"
            )


def write_speeches(context: StepContext[EvaluationDir], speeches: Speeches = evaluation_speeches) -> None:
    """Write speeches.parquet. `speeches` chooses the speeches and returns their rows, ordered by id."""
    with written(context.files.speeches, SPEECHES) as add:
        index, count = context.shard
        for speech in speeches(context.config, context.say)[index::count]:
            add(speech)


def estimate(context: StepContext[EvaluationDir]) -> Estimate:
    """Estimate the cost of the replies that the journal lacks; speeches.parquet must exist."""
    with closing(Answers(context.files.answers)) as answers:
        asks = ((reply.contestant.model, reply.ask) for reply in wanted_replies(context) if reply.ask is not None)
        return Estimate.of(asks, answers)


def wanted_replies(context: StepContext[EvaluationDir]) -> Iterator[Reply]:
    """Yield every reply of every contestant to every speech, speech by speech."""
    config = context.config
    prompts = {limit: replies_prompt(config, limit) for limit in config.replies.length_limits}
    contestants = build(config, "contestants").all()
    for speech in rows_of(context.files.speeches, ["speech", "messages", "language", "crisis"]):
        for contestant in contestants:
            reason = _reason_against(contestant.model, speech, config.crisis_to_third_parties)
            for limit, prompt in prompts.items():
                for sample in range(config.replies.samples):
                    ask = None if reason else _ask(speech, prompt, sample, config.replies.seed)
                    yield Reply(contestant, speech, limit, sample, ask, reason)


def imagined_replies(context: StepContext[EvaluationDir], answers: Answers) -> dict[str, list[Row]]:
    """Return the replies to each speech, with placeholder texts of typical length for those that are not bought yet."""
    rows: dict[str, list[Row]] = {}
    for number, wanted in enumerate(wanted_replies(context)):
        if wanted.ask is not None:
            row = {"setting": wanted.contestant.setting, "seed": wanted.contestant.seed, "reply": str(number)}
            row |= {"length_limit": wanted.length_limit, "sample": wanted.sample}
            bought = answers.settled(wanted.contestant.model, wanted.ask, str, 0)
            text = f"{number} " + "word " * (wanted.length_limit or IMAGINED_WORDS)
            row |= reply_columns(bought) if isinstance(bought, Outcome) else {"text": text, "outcome": TEXT}
            rows.setdefault(wanted.speech["speech"], []).append(row)
    return rows


def _reason_against(model: LanguageModel, speech: Row, crisis_to_third_parties: bool) -> str | None:
    """Return the outcome that explains why the contestant is not asked about a speech; None if it is asked."""
    if model.language not in (None, speech["language"]):
        return OTHER_LANGUAGE
    return None if may_see(model, speech["crisis"], crisis_to_third_parties) else WITHHELD


def _ask(speech: Row, prompt: str | None, sample: int, seed: int) -> Ask:
    """Return the request for a reply. All contestants get the same messages and the same random numbers."""
    messages = with_system_prompt(json.loads(speech["messages"]), prompt)
    number = seed_of(seed, speech["speech"], sample)
    return Ask(speech["speech"], tuple(messages), number, f"seed {seed} reply {sample}")


def _write(context: StepContext[EvaluationDir], answers: Answers) -> dict[str, Any]:
    """Write replies.parquet from the journal's answers; return the counts of speeches, replies and outcomes."""
    outcomes: dict[str, Counter[str]] = {}
    cut = Counter[str]()
    with written(context.files.replies, SCHEMA) as add:
        for reply in wanted_replies(context):
            row = _row(reply, answers)
            add(row)
            model = reply.contestant.model
            outcomes.setdefault(model.name, Counter())[row["outcome"]] += 1
            # A reply whose thoughts alone reach the limit is empty.
            only_thoughts = row["outcome"] == EMPTY and (row["completion_tokens"] or 0) >= model.max_tokens
            cut[model.name] += only_thoughts or row["outcome"] == CUT
    speeches = list(rows_of(context.files.speeches, ["crisis", "near_training"]))
    return {
        "speeches": len(speeches),
        "crisis_speeches": sum(row["crisis"] for row in speeches),
        "near_training": sum(row["near_training"] for row in speeches),
        "replies": sum(count.total() for count in outcomes.values()),
        "outcomes": {name: dict(counts) for name, counts in outcomes.items()},
        "cut": dict(cut),
    }


def _row(reply: Reply, answers: Answers) -> Row:
    contestant, limit = reply.contestant, reply.length_limit
    row: Row = dict.fromkeys(SCHEMA.names)
    row |= {"speech": reply.speech["speech"], "contestant": contestant.model.name, "setting": contestant.setting}
    row |= {"seed": contestant.seed, "length_limit": limit, "sample": reply.sample, "prompt_version": ""}
    if reply.ask is None:
        return row | {"outcome": reply.outcome}
    row["prompt_version"] = prompt_version(reply.ask)
    settled = answers.settled(contestant.model, reply.ask, str, 0)
    if not isinstance(settled, Outcome):
        return row | {"outcome": FAILED}
    row |= reply_columns(settled)
    return row | {"prompt_tokens": settled.answer.prompt_tokens, "completion_tokens": settled.answer.completion_tokens}


def prompt_version(ask: Ask) -> str:
    """Return a hash of the system prompt (16 hexadecimal digits)."""
    return text_id(*(message["content"] for message in ask.messages if message["role"] == "system"))


def reply_columns(settled: Outcome[str]) -> Row:
    """Return the columns outcome, model, text and reply of an answer; text and reply are None if it has no reply text."""
    text, outcome = settled.answer.text.strip(), settled.outcome
    if outcome in (TEXT, CUT) and not text:
        outcome = EMPTY
    elif outcome == TEXT and is_refusal(text):
        outcome = REFUSED
    row: Row = {"outcome": outcome, "model": settled.answer.model, "text": None, "reply": None}
    if text and settled.outcome in (TEXT, CUT):  # the text of an API's refusal or content filter is not a reply
        row |= {"text": text, "reply": text_id(text)}
    return row


def cut_warnings(
    outcomes: Mapping[str, Mapping[str, int]], cut: Mapping[str, int], limits: Mapping[str, int]
) -> Iterator[str]:
    """Yield a warning for each contestant of whose replies at least half reached `max_tokens`.

    `outcomes`: number of replies by contestant and outcome. `cut`: number of replies that reached the limit.
    """
    for name, counts in outcomes.items():
        written = sum(counts.get(outcome, 0) for outcome in (TEXT, CUT, EMPTY, REFUSED))
        if written:
            yield from cut_warning(cut[name] / written, name, "replies.max_tokens", limits[name])


def _said(figures: dict[str, Any]) -> Iterator[str]:
    yield f"{figures['speeches']:,} speeches, {figures['replies']:,} replies"
    for name, counts in figures["outcomes"].items():
        if odd := odd_outcomes(counts):
            yield f"{name}: {odd}"
    if any(counts.get(WITHHELD) for counts in figures["outcomes"].values()):
        yield (
            "withheld: these speeches may be about a crisis, and a third party runs the contestant; "
            "crisis_to_third_parties=true sends them to it"
        )
