"""Likely meanings of columns with other names than those of data/rows.py, for advice that a user can paste."""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psychocounsel.data.base import Row
from psychocounsel.data.messages import TALKS, is_bare_talk
from psychocounsel.data.rows import is_missing, parse_row
from psychocounsel.data.settings import columns_in
from psychocounsel.data.shaping import shaped
from psychocounsel.errors import UserError, words

# Names that published data sets give to these columns; compared in lower case, without underscores.
_OTHER_NAMES = {
    "prompt": (
        *("question", "questiontext", "context", "input", "query", "speech", "post", "patient", "client", "user"),
        *("seeker", "seekerpost", "description", "instruction", "questiontitle"),
        *TALKS,  # beside chosen and rejected
    ),
    "chosen": ("preferred", "better", "winner", "good"),
    "rejected": ("dispreferred", "worse", "loser", "bad"),
    "completion": (
        *("response", "answer", "answertext", "reply", "output", "therapist", "counselor", "counsellor", "assistant"),
        *("supporter", "responsepost", "target", "answers"),
    ),
    "messages": (),
    "label": (),
}
# Columns that hold parts of one prompt, in the order of reading; the later ones continue a title or a question.
_CONTINUED = ("questiontext", "context", "post", "description", "body", "details", "input")
_PARTS = ("title", "questiontitle", "instruction", "question", "prompt", "query", "speech", *_CONTINUED)
_TURN_NAMES = (  # of conversation, speaker and text in a file with one turn a row, in the same form
    ("transcriptid", "conversationid", "dialogueid", "dialogid", "sessionid", "conversation", "session", "transcript"),
    ("role", "speaker", "interlocutor", "from", "author"),
    ("content", "utterancetext", "utterance", "text", "value", "message"),
)


@dataclass(frozen=True)
class Meaning:
    """Values of `data.columns` and `data.group_by` for a file."""

    columns: Mapping[str, str | list[str]]
    group_by: str | None = None

    def __str__(self) -> str:
        """Return the keys, ready to paste into a shell."""
        pairs = ", ".join(
            f"{name}: {_quoted(given) if isinstance(given, str) else '[' + ', '.join(map(_quoted, given)) + ']'}"
            for name, given in self.columns.items()
        )
        group = f"data.group_by={shlex.quote(self.group_by)} " if self.group_by else ""
        return f"{group}{shlex.quote(f'data.columns={{{pairs}}}')}"


def likely_columns(rows: Sequence[tuple[str, Row]], unread: set[str] | None = None, has_replies: bool = False) -> str:
    """Return `; try KEYS` with the likeliest meaning of the columns of `rows`, an empty text if none is known that reads them.

    Each meaning is tried on all rows. With `unread`, the columns that are not read as the rows stand, a meaning must read one
    of them: as a part of the prompt, or as replies unless the rows have some (`has_replies`).
    """
    best, read, count = "", 0, 1
    for meaning in _meanings([row for _, row in rows]):
        if unread is not None and unread.isdisjoint(_gained(meaning, has_replies)):
            continue
        outcomes = [*_reads(rows, meaning)]
        if sum(outcomes) * count > read * len(outcomes):  # a larger share of its rows
            best, read, count = str(meaning), sum(outcomes), len(outcomes)
    if not best and unread is None and is_bare_talk([row for _, row in rows]):
        return (
            '; put the turns of a conversation into one row, {"messages": [...]}, or add a column that names the conversation '
            "(data.group_by)"
        )
    drops = f" data.bad_rows=drop, which reads {read:,} of {count:,} rows" if read < count else ""
    return words(f"; try {best}{drops}") if best else ""


def may_be_texts(unread: Iterable[str], has_replies: bool) -> bool:
    """Return True if the name of a column that is not read is that of a part of prompts, or of replies if the rows have none."""
    sought = {*_CONTINUED, *(() if has_replies else (*_OTHER_NAMES["completion"], "completion"))}
    return not sought.isdisjoint(map(_plain, unread))


def _gained(meaning: Meaning, has_replies: bool) -> Iterator[str]:
    """Yield the columns whose text would be missed: replies of rows without any, and later parts of the prompt."""
    for name, given in meaning.columns.items():
        if name in ("completion", "chosen", "rejected") and not has_replies:
            yield from columns_in(given)
        elif name == "prompt" and not isinstance(given, str):
            yield from (column for column in given if _plain(column) in _CONTINUED)


def _reads(rows: Sequence[tuple[str, Row]], meaning: Meaning) -> Iterator[bool]:
    """Yield for each row, or for each conversation that is joined, whether it is read."""
    try:
        for where, row in shaped(iter(rows), None, meaning.columns, meaning.group_by):
            try:
                if isinstance(row, UserError):
                    raise row
                example = parse_row(row, where)
                yield bool(example.replies) or meaning.columns.keys() <= {"prompt", "system"}
            except UserError:
                yield False
    except UserError:  # turns that cannot be joined
        return


def _meanings(rows: Sequence[Row]) -> Iterator[Meaning]:
    """Yield the meanings that the columns' names suggest, the likeliest first."""
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            if not is_missing(value):
                values.setdefault(str(name), []).append(value)
    named = {_plain(name): name for name in values}
    group, role, content = (next((named[name] for name in names if name in named), None) for names in _TURN_NAMES)
    if group and role and content:
        yield Meaning({"role": role, "content": content}, group)
    likely = dict[str, str]()
    for name, others in _OTHER_NAMES.items():
        column = next((named[other] for other in (name, *others) if other in named), None)
        if column is not None and column not in likely.values():
            likely[name] = column
    if "prompt" in likely:
        parts, system = _parts(values, named, likely["prompt"], len(rows))
        if len(parts) > 1 or system:
            joined = {"prompt": parts if len(parts) > 1 else parts[0]}
            yield Meaning({**({"system": system} if system else {}), **likely, **joined})
        yield Meaning(likely)
    elif "text" in named:
        yield Meaning({"prompt": named["text"]})


def _parts(
    values: Mapping[str, Sequence[Any]], named: Mapping[str, str], main: str, rows: int
) -> tuple[list[str], str | None]:
    """Return the columns that hold parts of the prompt, `main` among them, and that of an instruction that all rows share."""
    if _plain(main) not in _PARTS:
        return [main], None
    columns = [named[name] for name in _PARTS if name in named]
    texts = [column for column in columns if column == main or _are_texts(values[column])]
    instruction = named.get("instruction", "")
    shared = 1 < rows == len(values.get(instruction, ())) and len({*map(str, values[instruction])}) == 1
    parts = [column for column in texts if column != instruction or not shared]
    return (parts, instruction) if parts and len(parts) < len(texts) else (texts, None)


def _are_texts(values: Sequence[Any]) -> bool:
    """Return True for words of people: most values are texts of several words, or long ones of a language without blanks."""
    return 2 * sum(isinstance(value, str) and (len(value.split()) > 2 or len(value) > 20) for value in values) > len(
        values
    )


def _plain(name: str) -> str:
    """Return a column's name in lower case without blanks and underscores."""
    return name.lower().replace("_", "").replace(" ", "")


def _quoted(column: str) -> str:
    return f'"{column}"' if re.search(r"\W", column, re.ASCII) else column
