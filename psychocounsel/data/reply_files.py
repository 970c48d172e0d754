"""Replies to prompts that another program, a person or an evaluation of ours wrote."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from psychocounsel.data.messages import Message, cell_value, read_messages, read_prompt
from psychocounsel.data.shared_text import normalised
from psychocounsel.data.sources import StandardSource, read_rows
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import EvaluationDir

_REPLIES = ("reply", "response", "completion", "answer", "output")
_PROMPTS = ("prompt", "question", "speech", "messages")


def replies_of(path: Path, key: str) -> dict[str, list[str]]:
    """Return the replies to each normalised prompt. `key`: the setting that error messages name.

    `path` is a file with the columns `prompt` and `reply`, or the directory of an evaluation whose contestants replied.

    Raises:
        UserError: if the file cannot be read, or a row lacks its prompt or reply.
    """
    if path.is_dir():
        return _replies_of_evaluation(path, key)
    by_prompt: dict[str, list[str]] = {}
    for where, row in read_rows(StandardSource(), str(path), "train", None):
        if isinstance(row, UserError):
            raise row
        prompt = next((row[name] for name in _PROMPTS if row.get(name)), None)
        reply = next((row[name] for name in _REPLIES if row.get(name) is not None), None)
        if prompt is None or not isinstance(reply, str):
            raise UserError(
                f"{key}: {where}: has no prompt or no reply; name the columns {_PROMPTS[0]} and {_REPLIES[0]}"
            )
        by_prompt.setdefault(normalised(messages_of(prompt, f"{key}: {where}")), []).append(reply)
    return by_prompt


def _replies_of_evaluation(folder: Path, key: str) -> dict[str, list[str]]:
    """Return all replies of an evaluation's first contestant, by normalised prompt."""
    files = EvaluationDir(folder)
    by_prompt: dict[str, list[str]] = {}
    try:
        speeches = pq.read_table(files.speeches, columns=["speech", "messages"]).to_pylist()
        prompts = {row["speech"]: normalised(json.loads(row["messages"])) for row in speeches}
        rows = pq.read_table(files.replies, columns=["speech", "setting", "text"]).to_pylist()
        for row in rows:
            if row["text"] and row["setting"] == rows[0]["setting"]:
                by_prompt.setdefault(prompts[row["speech"]], []).append(row["text"])
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{key}={folder}: its speeches.parquet or replies.parquet cannot be read; run it again"
        ) from error
    return by_prompt


def messages_of(prompt: Any, where: str) -> list[Message]:
    """Return a prompt column as chat messages, as the rows of `data` are read: a text, a transcript or a list of messages.

    Raises:
        UserError: if the prompt is none of these; the error names `where`.
    """
    prompt = cell_value(prompt, where, "prompt")
    return read_prompt(prompt, where, "prompt") if isinstance(prompt, str) else read_messages(prompt, where, "prompt")
