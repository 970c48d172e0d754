"""Reads the text of an answer: removes thoughts, detects refusals, parses strict JSON and checks quotations."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from psychocounsel.data.control_tokens import spelled_apart

# Thoughts that reasoning models write before their answer

_OPENED = re.compile(r"\A\s*<think(?:ing)?>", re.IGNORECASE)
_CLOSED = re.compile(r"</think(?:ing)?>\s*", re.IGNORECASE)
_OPENED_LAST = re.compile(r"<think(?:ing)?>\s*\Z", re.IGNORECASE)


def without_thoughts(text: str, prompt: str = "", must_open: bool = False) -> str:
    """Return `text` without the thoughts at its beginning; empty if the thoughts never end.

    The opening tag may be missing from the text, because many chat templates put it at the end of the prompt. Given the
    rendered `prompt`, thoughts are recognised even if the closing tag is missing as well. A text that begins with `{` is JSON
    and is returned whole, because tags inside it are quotations. With `must_open`, a closing tag without an opening one is a
    quotation, too.
    """
    if text.lstrip().startswith("{"):
        return text
    is_opened = bool(_OPENED.match(text) or _OPENED_LAST.search(prompt))
    if (closed := _CLOSED.search(text)) and (is_opened or not must_open):
        return text[closed.end() :]
    return "" if is_opened else text


def ends_thoughts(text: str) -> bool:
    """Return True if the tag that closes thoughts stands in `text`."""
    return bool(_CLOSED.search(text))


def shown_so_far(text: str, prompt: str = "") -> str:
    """Return an unfinished text without its thoughts; empty while the text could be the start of the opening tag."""
    return "" if "<thinking>".startswith(text.strip().lower()) else without_thoughts(text, prompt)


# Refusals in prose

_SHOWN = 200  # characters at the beginning of a text that are searched for a refusal
_START = re.compile(
    r"""\A[\s"'*_>]*
    (?:(?:i['\u2019]?m|i\sam|we['\u2019]?re)\s(?:really\s|very\s|so\s|truly\s)?(?:sorry|afraid)\b[^"\u201c]{0,80}?\b(?:but|that|[,.])?\s*)?
    (?:(?:sorry|apologies|unfortunately|as\san\sai[\w\s]{0,40})[,.]?\s*(?:but\s)?)?
    (?:i['\u2019]?m|i\sam|i)\s
    (?:really\s)?(?:can(?:not|['\u2019]?t|\snot)|won['\u2019]?t|will\snot|unable\sto|not\sable\sto|not\scomfortable)\s
    (?:be\sable\sto\s|really\s)?
    (?:help(?:ing)?\b(?!\s(?:but|wonder|notic|feel|think|hear|worry|imagin|him|her|them|you\s(?:decid|choos|chang|fix)))
      |(?:assist(?:ing)?|fulfil\w*|comply|continue|continuing|rate|rating|evaluate|evaluating|create|generate)\b
      |(?:do|write|discuss)\s(?:that|this|it)\s*(?:[.,;!]|\Z)|support\sthis\b
      |(?:provid|giv|offer)\w*\s(?:you\s)?(?:with\s)?(?:(?:the|any|this|that|such|kind|type|of)\s)*
       (?:help|support|therapy|counsell?ing|assistance|services?|information|content|ratings?|evaluations?|responses?
         |(?:medical|legal|professional|mental\shealth)\s(?:advice|help|support))\b
      |(?:answer|giv|offer|writ|discuss|respond|engag|provid)\w*\s(?:[\w\s]{1,20}?\s)??(?:(?:to|with|in|on|about)\s)?
       (?:this|that|your)\s(?:request|question|prompt|task|topic|subject|conversation)s?\b(?!\sfor\s))""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_POLICY = re.compile(
    r"(?:against|violat\w+) (?:my|our) (?:\w+ )?(?:guidelines|polic(?:y|ies))|content polic(?:y|ies)"
    r"|as an ai(?: language)? model,? i (?:can(?:not|['\u2019]?t)|do not|don['\u2019]?t) (?:have|provide|offer|engage)",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Return True if an English text begins by refusing the task.

    A limit that a counsellor sets inside a reply is not a refusal ("I can't decide this for you", "I won't give you easy
    answers"). Therefore only the first 200 characters are read, and only phrases that refuse the task itself count.
    """
    start = text[:_SHOWN]
    return bool(_START.search(start) or _POLICY.search(start))


# Strict JSON: the requested schema, and a parser that does not guess

_FENCED = re.compile(r"```[a-zA-Z]*[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL)


class Unreadable(ValueError):
    """An unusable answer. The message gives the reason and does not quote the answer."""


def object_schema(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of an object with exactly these properties, all of them required."""
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


def parsed_json(text: str) -> Any:
    """Return the parsed JSON of an answer, which is JSON or one code fence with JSON, after its own thoughts.

    Nothing else may stand beside it, because it could be quoted from a text that the answer is about.

    Raises:
        Unreadable: for words beside a code fence, for text that is not JSON, and for an object with a duplicate key.
    """
    text = without_thoughts(text, must_open=True).strip()
    fences = len(_FENCED.findall(text))
    fence = _FENCED.fullmatch(text)
    if fences > 1 or (fences and not fence):
        raise Unreadable("has several code blocks" if fences > 1 else "has words beside its code block")
    try:
        return json.loads(fence[1] if fence else text, object_pairs_hook=_without_doubles)
    except Unreadable:
        raise
    except (ValueError, RecursionError) as error:
        raise Unreadable("is not valid JSON") from error


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse duplicate keys, because Python would silently keep only the last one."""
    if len(dict(pairs)) < len(pairs):
        raise Unreadable("has a key twice")
    return dict(pairs)


def refuse_repeated(text: str, shown: Iterable[str]) -> None:
    """Refuse a JSON answer that stands in one of the texts that were `shown`, whole or, for one of its replies, in part.

    Objects are compared by their values, so that other spacing makes no difference.

    Raises:
        Unreadable: if it does.
    """
    try:
        answer = parsed_json(spelled_apart(text))
    except Unreadable:
        return  # a refusal in prose
    own = [each for each in _objects(answer) if each is answer or any(isinstance(part, dict) for part in each.values())]
    if any(each in own for other in shown for value in _json_in(spelled_apart(other)) for each in _objects(value)):
        raise Unreadable("repeats a block of a text that it is about")


def _json_in(text: str) -> Iterator[Any]:
    """Yield each JSON object that stands in a text."""
    place = text.find("{")
    while place >= 0:
        try:
            value, end = _DECODER.raw_decode(text, place)
            yield value
        except (ValueError, RecursionError):
            end = place + 1
        place = text.find("{", end)


_DECODER = json.JSONDecoder()


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield each object in parsed JSON."""
    left = [value]
    while left:
        part = left.pop()
        left += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        if isinstance(part, dict):
            yield part


def json_object(value: Any, where: str) -> dict[str, Any]:
    """Return `value` if it is a JSON object; otherwise raise Unreadable, with `where` as its name in the message."""
    if not isinstance(value, dict):
        raise Unreadable(f"{where} is no JSON object")
    return value


def check_keys(value: dict[str, Any], keys: Sequence[str], where: str) -> None:
    """Raise Unreadable if an object lacks one of `keys` or has other keys."""
    if missing := [key for key in keys if key not in value]:
        raise Unreadable(f"{where}{missing[0]} is missing")
    if len(value) > len(keys):
        raise Unreadable(f"{where or 'the answer '}has a key that was not asked for")


# Quotations

ABSENT = "absent"  # the quotation that says that something is missing from the reply

_MARKS = str.maketrans("\u2018\u2019\u201c\u201d\u00ab\u00bb\u2013\u2014\u00a0", '\'\'""""-- ')


def stands_in(quote: str, reply: str) -> bool:
    """Return True if a quotation occurs in the reply, ignoring case, spacing and the shape of quotation marks and dashes.

    The parts around an ellipsis must occur in the same order. The quotation `absent` is always accepted.
    """
    if _plain(quote) == ABSENT:
        return True
    place, text = 0, _plain(reply)
    parts = [part for piece in re.split(r"\.\.\.|\u2026", quote) if (part := _plain(piece).strip(" \"'"))]
    for part in parts:
        start = text.find(part.rstrip(".,;:"), place)
        if start < 0:
            return False
        place = start + len(part)
    return bool(parts)


def _plain(text: str) -> str:
    return " ".join(spelled_apart(text).translate(_MARKS).casefold().split()).strip("\"' .")
