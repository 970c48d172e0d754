"""JSON that a model was asked for, read strictly: nothing is guessed or repaired."""

import json
import re
from collections.abc import Sequence
from typing import Any

from psychocounsel.asking.thoughts import without_thoughts

_FENCED = re.compile(r"```[a-zA-Z]*[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL)


class Unreadable(ValueError):
    """An answer that cannot be used; the message says why, and quotes nothing of it."""


def parsed_json(text: str) -> Any:
    """The JSON value that is an answer, alone or in one code fence, after thoughts.

    Raises:
        Unreadable: for anything else, and for a key that stands twice in an object.
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


def object_of(value: Any, where: str) -> dict[str, Any]:
    """The value, if it is a JSON object; `where` is what the message calls it."""
    if not isinstance(value, dict):
        raise Unreadable(f"{where} is no JSON object")
    return value


def check_keys_of(found: dict[str, Any], keys: Sequence[str], where: str) -> None:
    """Raise Unreadable if an object lacks one of `keys`, or has another; `where` begins the message, as `empathy: `."""
    if missing := [key for key in keys if key not in found]:
        raise Unreadable(f"{where}{missing[0]} is missing")
    if len(found) > len(keys):
        raise Unreadable(f"{where or 'the answer '}has a key that was not asked for")


def object_schema(properties: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of an object with these properties, all of them required, and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python would silently keep the last of two equal keys."""
    if len(dict(pairs)) < len(pairs):
        raise Unreadable("has a key twice")
    return dict(pairs)
