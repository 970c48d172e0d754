"""Rows of any supported format become Examples: a conversation, its replies, and where they came from.

Formats, recognised by their columns:
    preference    prompt|question, chosen, rejected: strings or lists of chat messages (replies may repeat the prompt)
    implicit      chosen, rejected: whole conversations with the same beginning
    demonstration prompt|question, completion|response|answer; or messages
    rated         prompt|question, replies: [{text, ratings: {empathy: 5, ...}}]
Released rating columns (`chosen_empathy_rating`, ...) are kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.errors import UserError

Message = dict[str, str]
Ratings = dict[str, float]

_PROMPTS = ("prompt", "question")
_COMPLETIONS = ("completion", "response", "answer")


@dataclass
class Example:
    """`prompt`: messages that end on the client's turn. `replies`: chosen first in a pair. `ratings`: per reply, or None.

    `where` names file and row, for messages that must not quote the text.
    """

    id: str
    where: str
    prompt: list[Message]
    replies: list[str]
    ratings: list[Ratings] | None = None
    rated: bool = field(default=False)  # replies are in no order: pairs are yet to be made


def parse_row(row: Mapping[str, Any], where: str) -> Example:
    """Turn one row into an Example.

    Raises:
        UserError: naming the file, row and column, and never quoting the text.
    """
    identity = str(row.get("prefID") if row.get("prefID") is not None else row.get("id") or row.get("ID") or where)
    if "replies" in row:
        return _rated(row, where, identity)
    if "chosen" in row or "rejected" in row:
        prompt, replies = _preference(row, where)
        return Example(identity, where, prompt, replies, _pair_ratings(row))
    if "messages" in row:
        messages = _messages(row["messages"], where, "messages")
        return Example(identity, where, messages[:-1], [_last_reply(messages, where, "messages")])
    name = _first_key(row, _COMPLETIONS, where)
    prompt = _prompt(row, where)
    return Example(identity, where, prompt, [_reply(row[name], prompt, where, name)])


def _rated(row: Mapping[str, Any], where: str, identity: str) -> Example:
    prompt = _prompt(row, where)
    texts = [_reply(reply.get("text"), prompt, where, "replies") for reply in row["replies"]]
    for reply in row["replies"]:
        missing = [name for name in PRINCIPLES if not isinstance((reply.get("ratings") or {}).get(name), int | float)]
        if missing:
            raise UserError(f"{where}: replies: a reply has no rating for {missing[0]}")
    return Example(identity, where, prompt, texts, [dict(reply["ratings"]) for reply in row["replies"]], rated=True)


def _preference(row: Mapping[str, Any], where: str) -> tuple[list[Message], list[str]]:
    for name in ("chosen", "rejected"):
        if name not in row or row[name] is None:
            raise UserError(f"{where}: has no {name}; a preference row needs prompt (or question), chosen and rejected")
    if any(name in row for name in _PROMPTS):
        prompt = _prompt(row, where)
        replies = [_reply(row[name], prompt, where, name) for name in ("chosen", "rejected")]
    else:
        prompt, replies = _implicit(row, where)
    if replies[0] == replies[1]:
        raise UserError(f"{where}: chosen and rejected are the same text; remove the row")
    return prompt, replies


def _implicit(row: Mapping[str, Any], where: str) -> tuple[list[Message], list[str]]:
    """TRL's implicit prompt: the prompt is what the two conversations share."""
    if isinstance(row["chosen"], str):
        raise UserError(f"{where}: has no prompt (or question) column; chosen and rejected alone must be lists of messages")
    chosen, rejected = (_messages(row[name], where, name) for name in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise UserError(f"{where}: chosen and rejected must be the same conversation up to their last message")
    _check_ends_on_client(chosen[:-1], where)
    return chosen[:-1], [_last_reply(chosen, where, "chosen"), _last_reply(rejected, where, "rejected")]


def _pair_ratings(row: Mapping[str, Any]) -> list[Ratings] | None:
    ratings = [{name: row.get(f"{side}_{name}_rating") for name in PRINCIPLES} for side in ("chosen", "rejected")]
    if any(value is None for side in ratings for value in side.values()):
        return None
    return [{name: float(value) for name, value in side.items() if value is not None} for side in ratings]


def _first_key(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> str:
    for name in names:
        if row.get(name) is not None:
            return name
    found = ", ".join(sorted(row)) or "none"
    raise UserError(f"{where}: needs a column {' or '.join(names)}; the columns are {found}")


def _prompt(row: Mapping[str, Any], where: str) -> list[Message]:
    name = _first_key(row, _PROMPTS, where)
    value = row[name]
    if isinstance(value, str):
        if not value.strip():
            raise UserError(f"{where}: {name} is empty")
        return [{"role": "user", "content": value.strip()}]
    messages = _messages(value, where, name)
    _check_ends_on_client(messages, where)
    return messages


def _check_ends_on_client(messages: list[Message], where: str) -> None:
    if not messages or messages[-1]["role"] != "user":
        raise UserError(f"{where}: the prompt must end on the client's turn (role user)")


def _messages(value: Any, where: str, name: str) -> list[Message]:
    try:
        messages = [{"role": str(item["role"]), "content": item["content"].strip()} for item in value]
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{where}: {name} must be a string or a list of {{role, content}} messages") from error
    if not messages:
        raise UserError(f"{where}: {name} is an empty conversation")
    for message in messages[:-1]:
        if not message["content"] and message["role"] != "system":
            raise UserError(f"{where}: {name} holds an empty message")
    return messages


def _last_reply(messages: list[Message], where: str, name: str) -> str:
    if messages[-1]["role"] != "assistant":
        raise UserError(f"{where}: {name} must end on the therapist's turn (role assistant)")
    if len(messages) < 2:
        raise UserError(f"{where}: {name} has a reply but no prompt before it")
    return _reply(messages[-1]["content"], [], where, name)


def _reply(value: Any, prompt: list[Message], where: str, name: str) -> str:
    """The reply's text; a conversation that repeats the prompt is cut to its last message."""
    if not isinstance(value, str):
        messages = _messages(value, where, name)
        if messages[-1]["role"] != "assistant" or messages[:-1] not in ([], prompt):
            raise UserError(f"{where}: {name} must be one assistant message, or the prompt followed by one")
        value = messages[-1]["content"]
    text = value.strip()
    if not text:
        raise UserError(f"{where}: {name} is empty")
    return text
