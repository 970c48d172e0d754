"""Rows of replies.parquet: a row for each drawn reply, with its text or the reason why it is missing."""

import hashlib

import pyarrow as pa

from psychocounsel.annotation.replies.drawing import Draw
from psychocounsel.asking.answers import Outcome
from psychocounsel.asking.language_model import FAILED, REFUSED, TEXT
from psychocounsel.asking.refusals import is_refusal
from psychocounsel.steps.tables import Row

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
    return hashlib.sha256(f"{speech}\0{text}".encode()).hexdigest()[:16]


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
