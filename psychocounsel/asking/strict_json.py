"""Strict JSON answers: builds the requested schema and parses the answer without guessing."""

import json
import re
from collections.abc import Sequence
from typing import Any

from psychocounsel.asking.thoughts import without_thoughts

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
    """Return the parsed JSON of an answer: its only code fence, whatever surrounds it, or else the whole answer.

    Raises:
        Unreadable: for several code fences, for text that is not JSON, and for an object with a duplicate key.
    """
    text = without_thoughts(text)
    fenced = _FENCED.findall(text)
    if len(fenced) > 1:
        raise Unreadable("has several code blocks")
    try:
        return json.loads(fenced[0] if fenced else text, object_pairs_hook=_without_doubles)
    except Unreadable:
        raise
    except (ValueError, RecursionError) as error:
        raise Unreadable("is not valid JSON") from error


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse duplicate keys, because Python would silently keep only the last one."""
    if len(dict(pairs)) < len(pairs):
        raise Unreadable("has a key twice")
    return dict(pairs)


def json_object(value: Any, where: str) -> dict[str, Any]:
    """Return `value` if it is a JSON object; otherwise raise Unreadable, with `where` as its name in the message."""
    if not isinstance(value, dict):
        raise Unreadable(f"{where} is no JSON object")
    return value


def check_keys(found: dict[str, Any], keys: Sequence[str], where: str) -> None:
    """Raise Unreadable if an object lacks one of `keys` or has other keys."""
    if missing := [key for key in keys if key not in found]:
        raise Unreadable(f"{where}{missing[0]} is missing")
    if len(found) > len(keys):
        raise Unreadable(f"{where or 'the answer '}has a key that was not asked for")
