"""Finished conversations in VERA-MH's and MindEval's formats (docs/safety.md), as rows of session_turns.parquet."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from psychocounsel.asking.language_model import EMPTY, TEXT
from psychocounsel.errors import UserError
from psychocounsel.evaluation.flows.foreign_files import json_lines, refused, utf8_text
from psychocounsel.evaluation.session.dialogue import SCHEMA
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import Row, written
from psychocounsel.storage.files import with_noun
from psychocounsel.storage.text_hashes import text_id

# Reader of finished conversations: text files in VERA-MH's format, and JSON lines in MindEval's (docs/safety.md#whole-sessions).

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
        id: hash of persona, setting, place (name of the text file, or line of a JSON lines file) and turns [16
            hexadecimal digits].
        persona: name of the client. Conversations with one client are not independent.
        setting: name of the counsellor: for a text file, the name of its folder; for a JSON line, its `model`, or the
            file's name if it has no `model`.
        turns: pairs of a client's speech and the reply; each may be "", for example if a program gave no text. If the
            counsellor speaks first, the first speech is "". A last speech without a reply is left out.
    """

    id: str
    persona: str
    setting: str
    turns: tuple[tuple[str, str], ...]


def read_transcripts(path: Path) -> list[Transcript]:
    """Return the conversations of a file, or of all .txt and .jsonl files in a folder and its subfolders, ordered by name.

    Raises:
        UserError: if there are no conversations, or one is wrong. The message names file and line.
    """
    files = sorted(file for file in path.rglob("*") if file.suffix in (".txt", ".jsonl")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path}: contains no .txt or .jsonl file with conversations")
    transcripts = [
        transcript
        for file in files
        for transcript in (_of_lines(file) if file.suffix == ".jsonl" else [_of_text(file)])
    ]
    if not transcripts:
        raise UserError(f"{path}: contains no conversations")
    return transcripts


def _of_text(file: Path) -> Transcript:
    named = _NAMED.fullmatch(file.stem)
    turns = _pairs(file, _text_turns(file))
    return _transcript(named["persona"] if named else file.stem, file.parent.name, file.name, turns)


def _text_turns(file: Path) -> Iterator[Turn]:
    """Yield the turns of a text file.

    A turn starts with its speaker's name, at the start of the file or after an empty line. All other lines continue the turn.
    """
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
            raise refused(file, line, "must start with user:, agent: or chatbot:")
    if not speaker:
        raise refused(file, 1, "contains no turn; turns start with user:, agent: or chatbot:")
    yield begun, speaker, "\n".join(words).strip()


def _of_lines(file: Path) -> Iterator[Transcript]:
    for line, row in json_lines(file):
        key = next((name for name in _MESSAGES if name in row), None)
        if key is None:
            raise refused(file, line, f"must contain the key {' or '.join(_MESSAGES)}")
        turns = _pairs(file, _json_turns(file, line, key, row[key]))
        profile = next((row[name] for name in _PROFILES if isinstance(row.get(name), dict)), None)
        persona = f"{file.stem} {line}" if profile is None else _profile_name(profile)
        model = row.get("model")
        yield _transcript(persona, model if isinstance(model, str) and model else file.stem, str(line), turns)


def _json_turns(file: Path, line: int, key: str, messages: Any) -> Iterator[Turn]:
    if not isinstance(messages, list) or not messages:
        raise refused(file, line, f"{key} is not a list of messages")
    for message in messages:
        if not (
            isinstance(message, dict) and message.get("role") in _ROLES and isinstance(message.get("content"), str)
        ):
            raise refused(file, line, f"a message in {key} lacks a role (user or assistant) or a text as content")
        yield line, _ROLES[message["role"]], message["content"].strip()


def _pairs(file: Path, turns: Iterable[Turn]) -> tuple[tuple[str, str], ...]:
    """Return pairs of a client's speech and the reply to it."""
    pairs = list[tuple[str, str]]()
    client, line = None, 1
    for line, speaker, text in turns:
        if speaker == COUNSELLOR:
            if client is None and pairs:
                raise refused(file, line, "the counsellor has two turns in a row")
            pairs.append((client or "", text))
            client = None
        elif client is not None:
            raise refused(file, line, "the client has two turns in a row")
        else:
            client = text
    if not any(reply for _, reply in pairs):
        raise refused(file, line, "the counsellor has no text in any turn")
    return tuple(pairs)


def _profile_name(profile: dict[str, Any]) -> str:
    """Return the member's name with a hash of the profile [4 hexadecimal digits], because members may share a name."""
    digest = text_id(json.dumps(profile, sort_keys=True))[:4]
    return f"{profile.get('name', 'member')} {digest}"


def _transcript(persona: str, setting: str, place: str, turns: tuple[tuple[str, str], ...]) -> Transcript:
    return Transcript(text_id(json.dumps([persona, setting, place, turns])), persona, setting, turns)


# Finished conversations as rows of session_turns.parquet, so that judges can rate them like sessions.

NAME = "transcripts"


def chosen_transcripts(config: DictConfig) -> list[Transcript]:
    """Return at most `limit` conversations, ordered by id. The ids are hashes, so the first ones are a random sample.

    Raises:
        UserError: if a file is wrong; the message names the line.
    """
    transcripts = read_transcripts(Path(config.evaluation.transcripts))
    return sorted(transcripts, key=lambda transcript: transcript.id)[: config.limit]


def transcript_notes(config: DictConfig) -> list[str]:
    """Return lines about these conversations that every output shows."""
    return [
        f"finished conversations from {config.evaluation.transcripts}: the expected action at each turn is unknown, so "
        "figures that depend on it are left out"
    ]


def write_transcripts(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Write session_turns.parquet; returns the step's figures.

    Raises:
        UserError: if a file is wrong; the message names the line.
    """
    chosen = chosen_transcripts(context.config)
    outcomes: dict[str, Counter[str]] = {}
    with written(context.files.session_turns, SCHEMA) as add:
        for row in _rows(chosen):
            add(row)
            outcomes.setdefault(row["setting"], Counter())[row["outcome"]] += 1
    replies = sum(count.total() for count in outcomes.values())
    personas = len({transcript.persona for transcript in chosen})
    conversations, clients = with_noun(len(chosen), "conversation"), with_noun(personas, "client")
    context.say(f"{conversations} of {clients}, {with_noun(replies, 'reply', 'replies')}")
    counted = {name: dict(sorted(counts.items())) for name, counts in outcomes.items()}
    return {"personas": personas, "sessions": len(chosen), "replies": replies, "outcomes": counted, "failed": 0}


def _rows(transcripts: list[Transcript]) -> Iterator[Row]:
    """Yield the rows, ordered by `speech`, a hash of the persona; `sample` numbers a setting's conversations with a persona."""
    samples = Counter[tuple[str, str]]()
    for transcript in sorted(transcripts, key=lambda one: (text_id(one.persona), one.setting, one.id)):
        sample = samples[transcript.persona, transcript.setting]
        samples[transcript.persona, transcript.setting] += 1
        head: Row = dict.fromkeys(SCHEMA.names)
        head |= {"speech": text_id(transcript.persona), "persona": transcript.persona, "pattern": NAME}
        head |= {"setting": transcript.setting, "contestant": transcript.setting, "seed": 0, "sample": sample}
        for turn, (client, reply) in enumerate(transcript.turns):
            reply_columns = {"text": reply, "reply": text_id(reply), "outcome": TEXT} if reply else {"outcome": EMPTY}
            yield head | {"turn": turn, "client": client, "ends": turn == len(transcript.turns) - 1} | reply_columns
