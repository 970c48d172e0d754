"""The step `replies` draws writers for each speech, asks them, and writes their replies to replies.parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa
from omegaconf import OmegaConf

from psychocounsel.asking.answer_text import is_refusal
from psychocounsel.asking.answers import Answers, Outcome
from psychocounsel.asking.budget import Estimate
from psychocounsel.asking.language_model import FAILED, REFUSED, TEXT, UNPARSABLE, Ask, LanguageModel, keys_of
from psychocounsel.asking.parties import who_may_see
from psychocounsel.counsel.system_prompt import prompt_text
from psychocounsel.grading.rating import conversation_of
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.buying import buy
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import Row, opened, rows_of, written
from psychocounsel.storage.files import with_noun
from psychocounsel.storage.text_hashes import number_of, text_id

# The step

WITHHELD, NO_WRITER = "withheld", "no_writer"  # outcomes of replies that no writer is asked for
_EMPTY_AGAIN = 2  # further attempts after an empty reply


def run(context: StepContext[AnnotationDir]) -> dict[str, Any]:
    """Buy the replies that the journal lacks, then write the table for this shard's speeches, in order.

    The table depends only on the journal, not on the order in which answers arrived.

    Raises:
        BudgetSpent: if the budget is spent first; the bought answers are in the journal.
        UserError: for a wrong key, address or prompt, or if no server is left.
    """
    drawing = drawing_of(context)
    with opened(context.files.speeches) as table:
        speeches = table.metadata.num_rows
    with closing(Answers(context.files.answers, context.shard)) as answers:
        budget = buy(
            _asks(context, drawing),
            answers,
            context.config.budget,
            models=drawing.writers,
            key="writers",
            read=read_reply,
            retries=_EMPTY_AGAIN,
            count=speeches * drawing.per_speech // context.shard[1],
            bar=context.bar,
            what="replies",
        )
        figures = _write(context, drawing, answers)
    for line in _summary_lines(figures):
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
    conversations = OmegaConf.select(config, "speeches.turns", default="last") != "last"
    return Drawing(
        writers, replies.per_speech, replies.seed, prompt, config.crisis_to_third_parties, own, conversations
    )


def draws(context: StepContext[AnnotationDir], drawing: Drawing) -> Iterator[Draw]:
    index, count = context.shard
    rows = rows_of(context.files.speeches, ["speech", "text", "language", "crisis"])
    for speech in islice(rows, index, None, count):
        yield from drawing.of(speech)


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
    result = answers.settled(draw.writer, draw.ask, read_reply, _EMPTY_AGAIN)
    return result if isinstance(result, Outcome) else None


_ADVICE: dict[str, Callable[[int], str]] = {
    WITHHELD: lambda count: (
        f"{with_noun(count, 'reply is', 'replies are')} withheld: their speeches may be about a crisis, and every "
        "writer is a third party; add a writer of your own, or set crisis_to_third_parties=true"
    ),
    NO_WRITER: lambda count: (
        f"{with_noun(count, 'reply has', 'replies have')} no writer for their speech's language; add one to writers.members"
    ),
    UNPARSABLE: lambda count: (
        f"{with_noun(count, 'reply was', 'replies were')} empty {_EMPTY_AGAIN + 1} times and not asked for again; "
        "changed settings of their writers, such as max_tokens, ask again"
    ),
}


def _summary_lines(figures: dict[str, Any]) -> Iterator[str]:
    outcomes = figures["outcomes"]
    yield f"{with_noun(figures['replies'], 'reply', 'replies')}: " + ", ".join(
        f"{count:,} {name}" for name, count in sorted(outcomes.items())
    )
    for name, advice in _ADVICE.items():
        if outcomes.get(name):
            yield advice(outcomes[name])
    if figures.get("over_length_limit"):
        yield f"{with_noun(figures['over_length_limit'], 'reply is', 'replies are')} longer than replies.length_limit"


# Writers drawn for each speech, and their prompts


@dataclass(frozen=True)
class Draw:
    """Reply number `number` to a speech: its writer and prompt, or, without a writer, the reason as `outcome`."""

    speech: str
    number: int
    writer: LanguageModel | None = None
    ask: Ask | None = None
    outcome: str | None = None


@dataclass(frozen=True)
class Drawing:
    """Rules by which writers are drawn.

    Attributes:
        per_speech: number of replies to each speech; a writer is drawn twice only if there are too few writers.
        seed: seed of the draw and of the writers' random numbers.
        prompt: the system message for writers without their own.
        crisis_to_third_parties: whether third parties may see crisis speeches.
        own_prompts: own system messages of writers, by name.
        conversations: True if texts may be conversations (`speeches.turns`), which the writers continue.
    """

    writers: Sequence[LanguageModel]
    per_speech: int
    seed: int
    prompt: str
    crisis_to_third_parties: bool
    own_prompts: Mapping[str, str] = field(default_factory=dict)
    conversations: bool = False

    def prompt_of(self, writer: LanguageModel | None) -> str:
        """Return the system message of a writer, or `prompt` if it has none of its own or `writer` is None."""
        return self.prompt if writer is None else self.own_prompts.get(writer.name, self.prompt)

    def prompt_version(self, writer: LanguageModel | None) -> str:
        """Return a hash of the writer's prompt [16 hexadecimal digits]."""
        return text_id(self.prompt_of(writer))

    def of(self, speech: Row) -> Iterator[Draw]:
        """Yield the draws for a speech: the columns `speech`, `text`, `language` and `crisis` of speeches.parquet.

        Every writer gets a random rank that depends only on seed, speech and the writer's name, and the writers with the first
        ranks are drawn. Therefore other speeches change nothing, a larger `per_speech` only adds replies, and a new writer
        replaces others only where its rank is better.
        """
        name, text = speech["speech"], speech["text"]
        speaking = [writer for writer in self.writers if writer.language in (None, speech["language"])]
        allowed = who_may_see(speaking, speech["crisis"], self.crisis_to_third_parties)
        if not allowed:
            outcome = WITHHELD if speaking else NO_WRITER
            yield from (Draw(name, number, outcome=outcome) for number in range(self.per_speech))
            return
        said = conversation_of(text) if self.conversations else [{"role": "user", "content": text}]
        ranked = sorted(allowed, key=lambda writer: number_of(self.seed, name, writer.name))
        for number in range(self.per_speech):
            again, place = divmod(number, len(ranked))
            writer = ranked[place]
            seed = number_of(self.seed, name, writer.name, str(again)) % (1 << 32)
            messages = ({"role": "system", "content": self.prompt_of(writer)}, *said)
            yield Draw(name, number, writer, Ask(name, messages, seed, f"reply {again}"))


# Rows of replies.parquet: a text, or the reason why it is missing

SCHEMA = pa.schema(
    [
        pa.field("speech", pa.string(), nullable=False),
        pa.field("number", pa.int64(), nullable=False),
        pa.field("reply", pa.string()),
        pa.field("writer", pa.string(), nullable=False),
        pa.field("model", pa.string()),
        pa.field("text", pa.string()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("completion_tokens", pa.int64()),
        pa.field("prompt_version", pa.string(), nullable=False),
        pa.field("terms", pa.string()),
    ]
)


def reply_id(speech: str, text: str) -> str:
    """Return the id of a reply: 16 hexadecimal digits of the sha256 of the speech's id and the reply's text."""
    return text_id(speech, text)


def read_reply(text: str) -> str:
    """Return a reply without surrounding white space.

    Raises:
        ValueError: if the reply is empty.
    """
    if not (stripped := text.strip()):
        raise ValueError("an empty reply")
    return stripped


def row_of(draw: Draw, outcome: Outcome[str] | None, prompt_version: str) -> Row:
    """Return the row of a reply; `outcome` is None if there is no answer yet.

    Only replies with the outcome `text` have a text: one that was cut at `max_tokens` stops in mid-sentence, and only the
    journal holds it.

    A reply that stays empty after all attempts is `unparsable`; its answers are in the journal. A refusal in prose is `refused`.
    """
    row: Row = dict.fromkeys(SCHEMA.names)
    row |= {"speech": draw.speech, "number": draw.number, "prompt_version": prompt_version}
    if draw.writer is None:
        return row | {"writer": "", "outcome": draw.outcome}
    row |= {"writer": draw.writer.name, "terms": draw.writer.terms, "outcome": FAILED}
    if outcome is None or outcome.outcome == FAILED:
        return row
    answer, text = outcome.answer, outcome.answer.text.strip()
    row |= {"model": answer.model, "outcome": outcome.outcome}
    row |= {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
    if row["outcome"] == TEXT and text:
        if is_refusal(text):
            return row | {"outcome": REFUSED}
        return row | {"text": text, "reply": reply_id(draw.speech, text)}
    return row
