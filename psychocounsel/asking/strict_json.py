"""Answers that must be JSON: the schema that is asked for, and the strict reading of what came. Nothing is guessed."""

import json
import re
from collections.abc import Sequence
from typing import Any

from psychocounsel.asking.thoughts import without_thoughts

_FENCED = re.compile(r"```[a-zA-Z]*[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL)


class Unreadable(ValueError):
    """An answer that cannot be used; the message says why, and quotes nothing of it."""


def object_schema(properties: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of an object with just these properties, all of them needed."""
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


def parsed_json(text: str) -> Any:
    """The JSON of an answer that holds nothing else, alone or in one code fence.

    Raises:
        Unreadable: for anything else, and for a key that stands there twice.
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
    """Python would silently keep the last of two equal keys."""
    if len(dict(pairs)) < len(pairs):
        raise Unreadable("has a key twice")
    return dict(pairs)


def json_object(value: Any, where: str) -> dict[str, Any]:
    """`value`, which must be an object; `where` is what messages call it. Raises Unreadable."""
    if not isinstance(value, dict):
        raise Unreadable(f"{where} is no JSON object")
    return value


def check_keys(found: dict[str, Any], keys: Sequence[str], where: str) -> None:
    """Refuse an object that lacks one of `keys` or has others. Raises Unreadable."""
    if missing := [key for key in keys if key not in found]:
        raise Unreadable(f"{where}{missing[0]} is missing")
    if len(found) > len(keys):
        raise Unreadable(f"{where or 'the answer '}has a key that was not asked for")
