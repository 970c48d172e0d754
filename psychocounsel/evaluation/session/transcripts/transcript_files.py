"""Reads finished conversations: text files as VERA-MH writes them, and JSON lines as MindEval does (docs/flows.md)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.evaluation.flows.foreign_files import json_lines, refused, utf8_text

CLIENT, COUNSELLOR = "client", "counsellor"
_SPEAKERS = {"user": CLIENT, "agent": COUNSELLOR, "chatbot": COUNSELLOR}
_ROLES = {"user": CLIENT, "assistant": COUNSELLOR}
_TURN = re.compile(rf"({'|'.join(_SPEAKERS)}):(?: |$)")
_ENDED = re.compile(r"\[CONVERSATION ENDED\b.*\]")
_NAMED = re.compile(r"[0-9a-f]{6}_(?P<persona>[^_]+)_.+_run\d+")  # 1a2b3c_Ida_MODEL_run1
_MESSAGES = ("interaction", "messages")
_PROFILES = ("member_profile", "member_attributes")

Turn = tuple[int, str, str]  # line, CLIENT or COUNSELLOR, text


@dataclass(frozen=True)
class Transcript:
    """A finished conversation.

    Attributes:
        id: 16 hexadecimal digits that change with persona, setting, place and turns.
        persona: whose conversations are not independent of each other, as the same person is played in them.
        setting: whose replies they are: of a text file the folder that it lies in, of a line its `model`, or the file's name.
        turns: words of the client and the reply to them, either of which may be "", as of a program that gave no text. A
            conversation that the counsellor begins has "" first; last words of the client without a reply are left out.
    """

    id: str
    persona: str
    setting: str
    turns: tuple[tuple[str, str], ...]


def read_transcripts(path: Path) -> list[Transcript]:
    """The conversations of a file, or of all .txt and .jsonl files in a folder and those below it, in the order of their names.

    Raises:
        UserError: if there is none; naming the line of what is wrong with one.
    """
    files = sorted(each for each in path.rglob("*") if each.suffix in (".txt", ".jsonl")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path}: has no .txt or .jsonl file with conversations")
    found = [each for file in files for each in (_of_lines(file) if file.suffix == ".jsonl" else [_of_text(file)])]
    if not found:
        raise UserError(f"{path}: has no conversations")
    return found


def _of_text(file: Path) -> Transcript:
    named = _NAMED.fullmatch(file.stem)
    turns = _pairs(file, _text_turns(file))
    return _transcript(named["persona"] if named else file.stem, file.parent.name, file.name, turns)


def _text_turns(file: Path) -> Iterator[Turn]:
    """A turn begins with its speaker's name at the beginning of the file or after an empty line; all else goes on with it."""
    begun, speaker, words = 0, "", list[str]()
    after_empty = True
    for line, text in enumerate(utf8_text(file).splitlines(), 1):
        started = _TURN.match(text) if after_empty else None
        after_empty = not text.strip()
        if _ENDED.fullmatch(text.strip()):
            continue
        if started:
            if speaker:
                yield begun, speaker, "\n".join(words).strip()
            begun, speaker, words = line, _SPEAKERS[started[1]], [text[started.end() :]]
        elif speaker:
            words.append(text)
        elif text.strip():
            raise refused(file, line, "begins with neither user: nor agent: nor chatbot:")
    if not speaker:
        raise refused(file, 1, "has no turn; turns begin with user: and agent: or chatbot:")
    yield begun, speaker, "\n".join(words).strip()


def _of_lines(file: Path) -> Iterator[Transcript]:
    for line, row in json_lines(file):
        key = next((name for name in _MESSAGES if name in row), None)
        if key is None:
            raise refused(file, line, f"has neither {' nor '.join(_MESSAGES)}")
        turns = _pairs(file, _json_turns(file, line, key, row[key]))
        profile = next((row[name] for name in _PROFILES if isinstance(row.get(name), dict)), None)
        persona = f"{file.stem} {line}" if profile is None else _profile_name(profile)
        model = row.get("model")
        yield _transcript(persona, model if isinstance(model, str) and model else file.stem, str(line), turns)


def _json_turns(file: Path, line: int, key: str, messages: Any) -> Iterator[Turn]:
    if not isinstance(messages, list) or not messages:
        raise refused(file, line, f"its {key} is no list of messages")
    for each in messages:
        if not (isinstance(each, dict) and each.get("role") in _ROLES and isinstance(each.get("content"), str)):
            raise refused(file, line, f"a message of its {key} lacks a role (user or assistant) or a text as content")
        yield line, _ROLES[each["role"]], each["content"].strip()


def _pairs(file: Path, turns: Iterable[Turn]) -> tuple[tuple[str, str], ...]:
    """The client's words and the reply to each."""
    found = list[tuple[str, str]]()
    client, line = None, 1
    for line, speaker, text in turns:
        if speaker == COUNSELLOR:
            if client is None and found:
                raise refused(file, line, "two turns of the counsellor, one after another")
            found.append((client or "", text))
            client = None
        elif client is not None:
            raise refused(file, line, "two turns of the client, one after another")
        else:
            client = text
    if not any(reply for _, reply in found):
        raise refused(file, line, "the counsellor says nothing")
    return tuple(found)


def _profile_name(profile: dict[str, Any]) -> str:
    """The member's name, and four digits that tell members of one name apart."""
    digest = hashlib.sha256(json.dumps(profile, sort_keys=True).encode()).hexdigest()[:4]
    return f"{profile.get('name', 'member')} {digest}"


def _transcript(persona: str, setting: str, place: str, turns: tuple[tuple[str, str], ...]) -> Transcript:
    content = json.dumps([persona, setting, place, turns]).encode()
    return Transcript(hashlib.sha256(content).hexdigest()[:16], persona, setting, turns)
