"""Shape of rows before they are parsed: `data.where` chooses rows, `data.columns` names columns, `data.group_by` joins turns."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psychocounsel.data.base import Row
from psychocounsel.data.files import is_number
from psychocounsel.data.messages import MARKS, first_of
from psychocounsel.data.rows import COMPLETIONS, IDS, RIVALS, SYSTEM, TEXTS, is_missing
from psychocounsel.data.settings import columns_in, listed
from psychocounsel.errors import UserError, words

Rows = Iterator[tuple[str, Row | UserError]]

_TEXTS_OF_ANSWERS = ("text", "answer", "answer_text", "response", "body")


def chosen(rows: Rows, wanted: Mapping[str, Any], path: str | None, group_by: str | None, left_out: set[str]) -> Rows:
    """Yield the rows whose columns have the values `wanted` (`data.where`), by the columns' names in the file.

    The places of other rows, or the names of their conversations, are added to `left_out`. Unreadable rows are passed on.

    Raises:
        UserError: for a row of a conversation whose other rows are chosen otherwise; at the end, if no row has one of the
            columns, or if no row is chosen.
    """
    spelt = ", ".join(f"{column}: {value}" for column, value in wanted.items())
    known = {column: {_word(value) for value in listed(values)} for column, values in wanted.items()}
    names, taken, is_any = set[str](), set[str](), False
    for where, row in rows:
        if isinstance(row, UserError):
            yield where, row
            continue
        names |= {*map(str, row)}
        is_chosen = all(_word(row.get(column)) in values for column, values in known.items())
        is_any |= is_chosen
        whole = where if group_by is None else str(row.get(group_by))
        if group_by is not None or not is_chosen:
            (taken if is_chosen else left_out).add(whole)
        if whole in taken and whole in left_out:
            raise UserError(
                f"{where}: data.where={{{spelt}}} takes some turns of its conversation and not the others; name a column that "
                "is the same for all of them"
            )
        if is_chosen:
            yield where, row
    if names and (lacking := [column for column in known if column not in names]):
        there = words(", ".join(sorted(names)))
        raise UserError(f"{path}: no row has a column {lacking[0]} (data.where); the columns are {there}")
    if names and not is_any:
        raise UserError(f"{path}: no row has data.where={{{spelt}}}")


def _word(value: Any) -> str:
    """Return a cell or a value of `data.where` in the form in which they are compared; an empty text for a missing one."""
    if is_missing(value):
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip().lower()


def shaped(
    rows: Rows, path: str | None, columns: Mapping[str, Any] | None, group_by: str | None, alone: bool = False
) -> Rows:
    """Yield the rows with the names of `columns`, joined to conversations by `group_by`, or one for each of several answers.

    `alone`: True if the run reads no other file, which `columns` may have been written for.

    Raises:
        UserError: if no row has a column of `columns`, or if turns cannot be joined.
    """
    names = {column: name for name, given in (columns or {}).items() for column in columns_in(given)}
    if columns:
        rows = _all_renamed(rows, columns, path, alone)
    if group_by is None:
        return _one_answer_a_row(rows)
    group_by = names.get(group_by, group_by)
    return _conversations(rows, group_by, "id" in names.values() and group_by != "id")


def _one_answer_a_row(rows: Rows) -> Rows:
    """Yield a row for each answer in a column of replies that lists texts, or objects with a text such as `answer_text`."""
    for where, row in rows:
        name = "" if isinstance(row, UserError) else first_of(row, COMPLETIONS)
        if isinstance(row, UserError) or not name or not isinstance(row[name], list):
            yield where, row
            continue
        answers = [_text_of_answer(answer) for answer in row[name]]
        if None in answers:  # messages, or something that is refused
            yield where, row
            continue
        if not answers:
            yield where, {**row, name: None}
        for number, text in enumerate(answers, 1):
            own = {key: f"{row[key]}-{number}" for key in IDS if row.get(key) is not None}
            yield f"{where}, answer {number}", {**row, **own, name: text}


def _text_of_answer(answer: Any) -> str | None:
    """Return the text of an answer that is no message with a speaker; None for anything else."""
    if isinstance(answer, Mapping) and not first_of(answer, ("role", "from", "speaker")):
        answer = answer.get(first_of(answer, _TEXTS_OF_ANSWERS))
    return answer if isinstance(answer, str) else None


def _all_renamed(rows: Rows, columns: Mapping[str, Any], path: str | None, alone: bool) -> Rows:
    """Yield the rows with the names that `columns` gives to their columns.

    Raises:
        UserError: at the end, if no row has one of the columns that `columns` names. Unless it is `alone`, a file may have
            none of them and the usual names instead, as another file of the same run may.
    """
    given = [(name, column) for name, columns_of in columns.items() for column in columns_in(columns_of)]
    unseen, names = given, set[str]()
    for where, row in rows:
        if unseen and isinstance(row, Mapping):
            unseen = [(name, column) for name, column in unseen if column not in row]
            names |= {*map(str, row)}
        yield where, _renamed(row, columns, where)
    lacking = [(name, column) for name, column in unseen if alone or name not in names]
    if lacking and (alone or len(unseen) < len(given)):
        name, column = lacking[0]
        there = words(", ".join(sorted(names)))
        raise UserError(f"{path}: no row has a column {column} (data.columns.{name}); the columns are {there}")


def _renamed(row: Row | UserError, columns: Mapping[str, Any], where: str) -> Row | UserError:
    """Return the row with the names that `columns` gives to its columns, or a UserError if it lacks a text that they name.

    Other columns that would compete with a named one keep their values under a name that is not read. A row that has the
    usual name already, as in another file of the same run, is left as it is.
    """
    if isinstance(row, UserError):
        return row
    there = {name: [column for column in columns_in(given) if column in row] for name, given in columns.items()}
    named = {name: found for name, found in there.items() if found}
    try:
        values = {name: _joined(row, name, found, where) for name, found in named.items()}
    except UserError as error:
        return error
    for name in ("prompt", "messages"):
        if name in named and values[name] is None and row.get(name) is None:
            return UserError(f"{where}: its column {' and '.join(named[name])} is empty (data.columns.{name})")
    for name, given in columns.items():
        if name in TEXTS and name not in (*SYSTEM, *named, *row):
            has = words(", ".join(sorted(map(str, row))))
            return UserError(
                f"{where}: has no column {' or '.join(columns_in(given))} (data.columns.{name}); its columns are {has}"
            )
    taken = {column for found in named.values() for column in found}
    hidden = {other for name in named for other in RIVALS.get(name, ())} - {*named}
    rest = {name: value for name, value in row.items() if name not in taken and name not in named}
    kept = {f"{name} (not in data.columns)" if name in hidden else name: value for name, value in rest.items()}
    return kept | values


def _joined(row: Row, name: str, columns: Sequence[str], where: str) -> Any:
    """Return the value of one column, or the texts of several with a blank line between them; None if all are empty."""
    if len(columns) == 1:
        return row[columns[0]]
    texts = list[str]()
    for column in columns:
        text = "" if row[column] is None else row[column]
        if not isinstance(text, str):
            raise UserError(f"{where}: its column {column} is not text, so it cannot be joined (data.columns.{name})")
        texts += [text.strip()] if text.strip() else []
    return "\n\n".join(dict.fromkeys(texts)) or None  # a title is often the first words of its text, or all of them


@dataclass
class _Conversation:
    """Conversation that is being joined.

    `first`: the place of its first row. `about`: what its rows say of the whole. `turns`: place and message of each turn,
    by its id or its place.
    """

    first: str
    about: dict[str, Any]
    turns: dict[str, tuple[str, dict[str, Any]]]


_OF_WHOLE = ("label", "topic", "risk", "language")  # columns that hold for a conversation if its rows agree


def _conversations(rows: Rows, group_by: str, has_ids: bool) -> Rows:
    """Join rows with one turn each to conversations, in the order of their ids if these are numbers, otherwise of the file.

    With `has_ids`, rows with the same `id` in one conversation are one turn: some sets repeat it for every annotator. A label,
    topic, risk or language that differs between the rows of a conversation belongs to turns. It is renamed, so that it is not
    read, and reported as such.

    Raises:
        UserError: for a row that cannot be read or belongs to no conversation, because dropping it would join other turns;
            for an id that stands for different turns; if the rows of a conversation have different system messages or are
            in two files, which may count their conversations each from 1.
    """
    conversations: dict[str, _Conversation] = {}
    for where, row in rows:
        if isinstance(row, UserError):
            raise row
        group = _key(row, group_by, f"{where}: has no conversation (data.group_by={group_by})")
        about = {name: value for name, value in row.items() if name not in (*TEXTS, *MARKS, "id", group_by)}
        system = {name: row[name] for name in SYSTEM if row.get(name) is not None}
        conversation = conversations.setdefault(group, _Conversation(where, about | system, {}))
        if file_of(where) != (first := file_of(conversation.first)):
            raise UserError(
                f"{where}: {first} has a conversation of this name, too (data.group_by={group_by}): give each conversation a "
                "name of its own, or put the turns of one conversation into one file"
            )
        _agree(conversation, about, system, where)
        number = _key(row, "id", f"{where}: has no id") if has_ids else where
        marks = {name: row[name] for name in MARKS if row.get(name) is not None}
        message = {"role": row["role"], "content": row["content"], **marks}
        if not str(row["content"] or "").strip():
            raise UserError(f"{where}: the text of its turn is empty; remove the row")
        place, known = conversation.turns.setdefault(number, (where, message))
        if known != message:
            raise UserError(
                f"{where}: has the id of another turn ({place}); leave id out of data.columns if it counts no turns"
            )
    for group, conversation in conversations.items():
        turns = conversation.turns
        order = sorted(turns, key=float) if all(map(is_number, turns)) else [*turns]
        yield conversation.first, {**conversation.about, "id": group, "dialog": [turns[number][1] for number in order]}


def file_of(where: str) -> str:
    """Return the file's name in a row's place, such as `a.csv row 3` or `a.jsonl line 3`; parts of a table count as one file."""
    return re.sub(r"-\d+-of-\d+(?=\.)", "", re.sub(r" (row|line) \d+$", "", where))


def _key(row: Row, column: str, why: str) -> str:
    value = row.get(column)
    if value is None:
        raise UserError(
            f"{why}: the column {column} is missing or empty; the columns are {words(', '.join(sorted(map(str, row))))}"
        )
    if isinstance(value, list | Mapping):
        raise UserError(f"{why}: {column} is neither text nor a number")
    return str(value)


def _agree(conversation: _Conversation, about: Mapping[str, Any], system: Mapping[str, Any], where: str) -> None:
    """Compare what a row says of its conversation with what the rows before it said."""
    for name in _OF_WHOLE:
        earlier, now = conversation.about.get(name), about.get(name)
        if earlier != now:
            conversation.about.pop(name, None)
            conversation.about[f"{name} (differs between turns)"] = now if earlier is None else earlier
    for name, text in system.items():
        if conversation.about.setdefault(name, text) != text:
            raise UserError(
                f"{where}: has another {name} message than the first row of its conversation ({conversation.first})"
            )
