"""Conversations as people write them, read as chat messages.

A message is {role, content}, {from, value}, {speaker, content} or LangChain's {type, data}, and {input, output} are two of
them; its `reasoning_content` is put before its text, in `<think>` tags. In the cells of a table, lists of messages are texts:
JSON, or what Python prints. A transcript is a text in which the speaker stands before each turn.
"""

import ast
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psychocounsel.errors import UserError

Message = dict[str, str]


class Unlearned(Message):
    """A counsellor's message that is read and not learned, because one of its MARKS says so; equal to a plain message."""


TALKS = ("messages", "conversations", "conversation", "dialog", "dialogue")  # columns of conversations

MARKS = ("weight", "loss_weight", "loss", "train", "training", "trainable")  # of messages: 0 or false is not learned

_SPEAKERS, _SAID = ("role", "from", "speaker", "type"), ("content", "value", "text", "utterance")
_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "usr", "human", "client", "patient", "seeker", "speaker", "caller", "visitor"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "sys", "therapist", "counselor", "counsellor"), "assistant"),
    **dict.fromkeys(("psychologist", "psychiatrist", "coach", "doctor", "supporter", "listener", "ai"), "assistant"),
    **dict.fromkeys(("来访者", "求助者", "患者", "用户"), "user"),
    **dict.fromkeys(("咨询师", "心理咨询师", "治疗师", "倾听者", "助手"), "assistant"),
}
_REASONING = ("reasoning_content", "reasoning", "thinking")
# Parts of messages that change what a chat template writes, and that nothing here passes on.
_NOT_PASSED_ON_IN_MESSAGES = ("tool_calls", "tool_call_id", "function_call", "tool_responses", "images", "audio")
_TIME = r"(?:[ \t]*[\[(][\d:.,\- ]+[\])])?"
_TONE = r"[ \t]*[\[(][^\[\]()\n]{1,60}[\])]"  # how the turn is said, as in `Client (sighs):`
_MARK = re.compile(
    rf"\n[ \t]*\**({'|'.join(_ROLES)})(?:[ \t]*#?\d{{1,4}})?\**{_TIME}({_TONE})?[ \t]*[:\uff1a]\**", re.IGNORECASE
)
_OPEN_END = re.compile(
    rf"\n[ \t]*({'|'.join(name for name, role in _ROLES.items() if role == 'assistant')})[ \t]*[:\uff1a]\s*\Z",
    re.IGNORECASE,
)
_OTHER_MARK = re.compile(
    rf"^[ \t]*\**([^\W\d_][\w.'-]*(?: [A-Z][\w.'-]*)?)\**{_TIME}(?:{_TONE})?[ \t]*[:\uff1a](?!//)", re.MULTILINE
)
_UNCLEAR_MARK = re.compile(
    r"^[ \t]*(?:client|counsell?or|therapist|patient)[ \t]*[-\u2013\u2014]", re.MULTILINE | re.IGNORECASE
)
WITHOUT_SPEAKERS = "is a text without speakers; each turn begins on a line of its own, as in Client: ... Counselor: ..."
_SPELT_LIST = re.compile(r"\s*(\[\s*)?\{\s*['\"]\w+['\"]\s*:")
_SPELT_TALK = re.compile(r"['\"](role|from|speaker|ratings)['\"]\s*:")


def client_text(messages: Iterable[Message], between: str = "\n") -> str:
    """Return the client's turns as one text, with `between` them."""
    return between.join(message["content"] for message in messages if message["role"] == "user")


def talk_with_client(value: Any, where: str, name: str) -> list[Message]:
    """Return a conversation up to the client's last turn, without system messages; neighbouring turns of a speaker are joined.

    `value`: a list of messages, the text of a cell that spells one, or a transcript in a column of TALKS. Any other text is a
    single turn of the client.

    Raises:
        UserError: naming `where` and the column `name`, if it holds neither, or no turn of the client.
    """
    value = cell_value(value, where, name)
    if isinstance(value, str) and name in TALKS and is_transcript(value):
        talk = read_transcript(value, where, name)
    else:
        talk = [{"role": "user", "content": value}] if isinstance(value, str) else value
    said = [message for message in read_messages(talk, where, name) if message["role"] != "system"]
    last = max((place for place, message in enumerate(said) if message["role"] == "user"), default=-1)
    if last < 0:
        raise UserError(f"{where}: {name} has no turn of the client (role user)")
    return joined_turns(said[: last + 1], ("user", "assistant"))


def cell_value(value: Any, where: str, name: str) -> Any:
    """Return the list of messages or replies that a table's cell spells, or that holds a single message; else the value."""
    if isinstance(value, Mapping):
        return [value]
    if not isinstance(value, str) or not _SPELT_LIST.match(value) or not _SPELT_TALK.search(value):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            parsed = parse(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        items = [*parsed] if isinstance(parsed, list | tuple) else [parsed]
        if all(isinstance(item, Mapping) for item in items):
            return items
    raise UserError(
        f"{where}: {name} looks like a list of messages, but is neither JSON nor what Python prints; write it as JSON"
    )


def read_messages(value: Any, where: str, name: str) -> list[Message]:
    """Return chat messages with stripped texts. Only a system message may be empty; it is then removed."""
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise UserError(f"{where}: {name} must be a string or a list of {{role, content}} messages")
    messages = []
    for item in (message for part in value for message in _messages_in(part)):
        role = _ROLES.get(str(item.get(first_of(item, _SPEAKERS))).strip().lower())
        if role is None:
            raise UserError(
                f"{where}: {name}: a message has no role that is known; call it client or counsellor (known: {', '.join(_ROLES)})"
            )
        content = item.get(first_of(item, _SAID))
        if role == "system" and (content is None or str(content).isspace() or content == ""):
            continue
        message = {"role": role, "content": _content({**item, "role": role, "content": content}, where, name)}
        messages.append(Unlearned(message) if role == "assistant" and _is_unlearned(item, where, name) else message)
    if not messages:
        raise UserError(f"{where}: {name} is an empty conversation")
    return messages


def _messages_in(item: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the messages of an item of a conversation: itself, or those of {system, input, output}, as XTuner writes them.

    LangChain puts what is said into the item's `data`.
    """
    if isinstance(item.get("data"), Mapping):
        return [{**item["data"], **item}]
    if first_of(item, _SPEAKERS) or not {"input", "output"} <= item.keys():
        return [item]
    roles = {"system": "system", "input": "user", "output": "assistant"}
    return [{"role": role, "content": item[name]} for name, role in roles.items() if item.get(name)]


def is_message(value: Any) -> bool:
    """Return True for an object that says who speaks."""
    return isinstance(value, Mapping) and str(value.get(first_of(value, _SPEAKERS))).strip().lower() in _ROLES


def is_bare_talk(rows: Any) -> bool:
    """Return True for a list of messages without other columns, such as a name of their conversation, which would join them.

    LangChain's messages have further columns of their own.
    """
    known = {*_SPEAKERS, *_SAID, *MARKS, *_REASONING}
    return (
        isinstance(rows, list)
        and bool(rows)
        and all(is_message(row) and (first_of(row, _SPEAKERS) == "type" or {*row} <= known) for row in rows)
    )


def _is_unlearned(message: Mapping[str, Any], where: str, name: str) -> bool:
    """Return True if a mark of a message is 0 or false.

    Raises:
        UserError: for a mark that is neither 0 nor 1, because turns have no other weights.
    """
    marks = {mark: str(message[mark]).strip().lower() for mark in MARKS if message.get(mark) is not None}
    for mark, word in marks.items():
        if word not in ("0", "0.0", "false", "1", "1.0", "true"):
            raise UserError(
                f"{where}: {name}: {mark} of a message must be 0 (it is not learned) or 1; round it, or rename it if it says "
                "something else"
            )
    return any(word in ("0", "0.0", "false") for word in marks.values())


def _content(message: Mapping[str, Any], where: str, name: str) -> str:
    """Return the text of a message, after its reasoning in `<think>` tags."""
    for part in _NOT_PASSED_ON_IN_MESSAGES:
        if message.get(part):
            raise UserError(
                f"{where}: {name}: {part} of a message cannot be passed to the chat template; remove such rows"
            )
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get(first_of(part, ("text", *_SAID)), "")) for part in content)
    text, reasoning = read_text(content, where, name), message.get(first_of(message, _REASONING))
    if not reasoning:
        return text
    if message["role"] != "assistant":
        raise UserError(
            f"{where}: {name}: only messages of the role assistant may have {first_of(message, _REASONING)}"
        )
    return f"<think>\n{read_text(reasoning, where, name)}\n</think>\n\n{text}"


def is_transcript(text: str) -> bool:
    """Return True if a text begins with a speaker, as in `Client: ...`."""
    return bool(_MARK.match(f"\n{text.lstrip()}"))


def read_prompt(text: str, where: str, name: str) -> list[Message]:
    """Return the messages of a prompt: one turn of the client, or a transcript of turns of both.

    A text in which only the client speaks is a turn, unless it ends with `Assistant:`, before the reply.
    """
    speakers = {_ROLES[mark[1].lower()] for mark in _MARK.finditer(f"\n{text}")} if is_transcript(text) else {}
    if {"user", "assistant"} <= {*speakers}:
        talk = read_transcript(_OPEN_END.sub("", text), where, name)
        return client_last(joined_turns(read_messages(talk, where, name), ("user", "assistant")), where)
    return [{"role": "user", "content": read_text(text, where, name)}]


def read_transcript(text: str, where: str, name: str) -> list[Message]:
    """Return the messages of a transcript in which the speaker stands before each turn: `Client: ...` on a line of its own.

    A note after the speaker, as in `Client (sighs): ...`, begins the turn's text.
    """
    parts = _MARK.split(f"\n{text}")
    speakers, tones, turns = parts[1::3], parts[2::3], parts[3::3]
    if parts[0].strip() or not speakers:
        raise UserError(f"{where}: {name} {WITHOUT_SPEAKERS}")
    if any(map(_UNCLEAR_MARK.search, turns)):
        raise UserError(f"{where}: {name} has a line that begins with a speaker, but without a colon after it")
    strangers = Counter(name for said in turns for name in _OTHER_MARK.findall(said.partition("\n")[2]))
    if strangers and strangers.most_common(1)[0][1] > 1:
        raise UserError(
            f"{where}: {name} has lines of a speaker who is neither client nor counsellor here; call speakers client or "
            f"counsellor (known: {', '.join(_ROLES)})"
        )
    return [
        {"role": speaker.lower(), "content": f"{tone or ''}{said}"}
        for speaker, tone, said in zip(speakers, tones, turns, strict=True)
    ]


def joined_turns(messages: Sequence[Message], roles: Sequence[str]) -> list[Message]:
    """Return the messages with neighbouring turns of one of `roles` joined, as transcripts split what one person says."""
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"] and message["role"] in roles:
            both = {**message, "content": f"{joined[-1]['content']}\n{message['content']}"}
            joined[-1] = Unlearned(both) if Unlearned in (type(message), type(joined[-1])) else both
        else:
            joined.append(message)
    return joined


def client_last(messages: list[Message], where: str) -> list[Message]:
    """Return the messages of a prompt, which must end on the client's turn."""
    if not messages or messages[-1]["role"] != "user":
        raise UserError(f"{where}: the prompt must end on the client's turn (role user)")
    return messages


def reply_turns(value: Any, prompt: list[Message], where: str, name: str) -> list[Message]:
    """Return the turns of a reply, without the prompt if the conversation repeats it."""
    if isinstance(value, str) or value is None:
        return [{"role": "assistant", "content": read_text(value, where, name)}]
    messages = read_messages(value, where, name)
    for beginning in (prompt, [message for message in prompt if message["role"] != "system"]):
        if messages[: len(beginning)] == beginning:
            return alternating(messages[len(beginning) :], where, name)
    return alternating(messages, where, name)


def alternating(messages: list[Message], where: str, name: str) -> list[Message]:
    """Return the turns of a reply, which must alternate and belong to the counsellor at both ends, and be learned."""
    if [message["role"] for message in messages] != ["assistant", "user"] * (len(messages) // 2) + ["assistant"]:
        raise UserError(
            f"{where}: {name} must be one turn of the assistant, or turns of assistant and user that alternate, begin and end "
            "with the assistant, and follow the prompt or stand alone"
        )
    if any(isinstance(message, Unlearned) for message in messages):
        raise UserError(
            f"{where}: {name}: a message is marked as not to be learned ({', '.join(MARKS[:4])}: 0 or false), which only "
            "conversations (messages) may have; remove the row"
        )
    return messages


def read_text(value: Any, where: str, name: str) -> str:
    """Return a text without blanks around it; one that shows nothing is refused."""
    if not isinstance(value, str):
        raise UserError(f"{where}: {name} holds something that is not text")
    text = value.strip()
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: {name} holds half a character (a lone surrogate)") from error
    if all(unicodedata.category(character)[0] in "CZ" for character in text):  # such characters show nothing
        raise UserError(f"{where}: {name} is empty")
    return text


def first_of(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the first of `names` under which the row has a value; an empty text without one."""
    return next((name for name in names if row.get(name) is not None), "")
