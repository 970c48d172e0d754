"""The step `replies` draws writers for each speech, asks them, and writes their replies to replies.parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from psychocounsel.annotation.replies.drawing import NO_WRITER, WITHHELD, Draw, Drawing, Speech
from psychocounsel.annotation.replies.reply_rows import SCHEMA, read_reply, row_of
from psychocounsel.asking.answers import Answers, Outcome
from psychocounsel.asking.budget import Estimate
from psychocounsel.asking.counsellor_prompt import prompt_text
from psychocounsel.asking.language_model import FAILED, UNPARSABLE, Ask, LanguageModel, keys_of
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.buying import buy
from psychocounsel.steps.context import StepContext
from psychocounsel.steps.tables import rows_of, written

_EMPTY_AGAIN = 2  # further attempts after an empty reply


def run(context: StepContext[AnnotationDir]) -> dict[str, Any]:
    """Buy the replies that the journal lacks, then write the table for this shard's speeches, in order.

    The table depends only on the journal, not on the order in which answers arrived.

    Raises:
        BudgetSpent: if the budget is spent first; the bought answers are in the journal.
        UserError: for a wrong key, address or prompt, or if no server is left.
    """
    drawing = drawing_of(context)
    with closing(Answers(context.files.answers, context.shard)) as answers:
        budget = buy(
            _asks(context, drawing),
            answers,
            context.config.budget,
            models=drawing.writers,
            key="writers",
            read=read_reply,
            retries=_EMPTY_AGAIN,
            count=_rows_in(context.files.speeches) * drawing.per_speech // context.shard[1],
            bar=context.bar,
            what="replies",
        )
        figures = _write(context, drawing, answers)
    for line in _said(figures):
        context.say(line)
    return {**figures, "spent": budget.spent, "bought": budget.made}


def estimate(context: StepContext[AnnotationDir]) -> Estimate:
    """Estimate the calls for replies that the journal lacks; speeches.parquet must exist."""
    drawing = drawing_of(context)
    with closing(Answers(context.files.answers)) as answers:
        return Estimate.of(_asks(context, drawing), answers)


def drawing_of(context: StepContext[AnnotationDir]) -> Drawing:
    """Return the Drawing that the configuration describes.

    Raises:
        UserError: if a prompt cannot be read.
    """
    config, replies = context.config, context.config.replies
    writers: list[LanguageModel] = build(config, "writers").models()
    own = {
        writer.name: prompt_text(writer.prompt, f"{key}.prompt", replies.length_limit)
        for key, writer in zip(keys_of(writers, "writers"), writers, strict=True)
        if writer.prompt is not None
    }
    prompt = prompt_text(str(replies.system_prompt), "replies.system_prompt", replies.length_limit)
    return Drawing(writers, replies.per_speech, replies.seed, prompt, config.crisis_to_third_parties, own)


def _rows_in(path: Path) -> int:
    """Return the number of rows of a table."""
    with pq.ParquetFile(path) as table:
        return int(table.metadata.num_rows)


def draws(context: StepContext[AnnotationDir], drawing: Drawing) -> Iterator[Draw]:
    index, count = context.shard
    rows = rows_of(context.files.speeches, ["speech", "text", "language", "crisis"])
    for row in islice(rows, index, None, count):
        yield from drawing.of(Speech(**row))


def _asks(context: StepContext[AnnotationDir], drawing: Drawing) -> Iterator[tuple[LanguageModel, Ask]]:
    for draw in draws(context, drawing):
        if draw.writer is not None and draw.ask is not None:
            yield draw.writer, draw.ask


def _write(context: StepContext[AnnotationDir], drawing: Drawing, answers: Answers) -> dict[str, Any]:
    """Write the table from the journal's answers; returns its figures."""
    outcomes, writers, versions = Counter[str](), dict[str, Counter[str]](), set[str]()
    over, limit = 0, context.config.replies.length_limit
    with written(context.files.replies, SCHEMA) as add:
        for draw in draws(context, drawing):
            row = row_of(draw, bought(draw, answers), drawing.prompt_version(draw.writer))
            add(row)
            outcomes[row["outcome"]] += 1
            versions.add(row["prompt_version"])
            if row["writer"]:
                writers.setdefault(row["writer"], Counter())[row["outcome"]] += 1
            over += bool(limit and row["text"] and len(row["text"].split()) > limit)
    figures = {"replies": sum(outcomes.values()), "outcomes": dict(outcomes), "prompt_versions": sorted(versions)}
    figures |= {"writers": {name: dict(writers[name]) for name in sorted(writers)}}
    return figures | ({"over_length_limit": over} if limit else {})


def bought(draw: Draw, answers: Answers) -> Outcome[str] | None:
    """Return the outcome of a reply from the journal, or None if its answer is not in the journal."""
    if draw.writer is None or draw.ask is None:
        return None
    found = answers.settled(draw.writer, draw.ask, read_reply, _EMPTY_AGAIN)
    return found if isinstance(found, Outcome) else None


_ADVICE: dict[str, Callable[[int], str]] = {
    WITHHELD: lambda count: (
        f"{count:,} replies are withheld: their speeches may be about a crisis, and every writer is a third party; add a writer "
        "of your own, or set crisis_to_third_parties=true"
    ),
    NO_WRITER: lambda count: (
        f"{count:,} replies have no writer for their speech's language; add one to writers.members"
    ),
    FAILED: lambda count: f"{count:,} replies failed; repeat the command with steps=[replies] to ask for them again",
    UNPARSABLE: lambda count: (
        f"{count:,} replies were empty {_EMPTY_AGAIN + 1} times and are not asked for again; changed settings of their writers, "
        "such as max_tokens, ask again"
    ),
}


def _said(figures: dict[str, Any]) -> Iterator[str]:
    outcomes = figures["outcomes"]
    yield f"{figures['replies']:,} replies: " + ", ".join(
        f"{count:,} {name}" for name, count in sorted(outcomes.items())
    )
    for name, advice in _ADVICE.items():
        if outcomes.get(name):
            yield advice(outcomes[name])
    if figures.get("over_length_limit"):
        yield f"{figures['over_length_limit']:,} replies are longer than replies.length_limit"
