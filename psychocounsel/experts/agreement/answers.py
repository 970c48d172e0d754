"""Table of experts' answers: one row for each time a rater answered an item."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psychocounsel.data.files import without_doubles
from psychocounsel.data.rows import as_number, comma_hint, is_missing
from psychocounsel.errors import UserError

CHOICES = ("left", "right", "tie", "harmful")
SIDES = ("left", "right")
ONE_REPLY = "reply"  # side under which ratings of an item with a single reply are stored

Ratings = dict[str, dict[str, float]]  # by side (or ONE_REPLY): rating by dimension


@dataclass(frozen=True)
class ExpertAnswer:
    """A row of the table (docs/experts.md). The review page writes it and `agreement` reads it.

    Attributes:
        item: id of the item shown: a speech with two replies or with one.
        speech: id of the client's speech. Items of one speech form one cluster when intervals are computed.
        rater: the rater's pseudonym.
        choice: left, right, tie or harmful (both replies are), by the sides on which this rater saw the replies;
            None if the item was only rated.
        label: side on which this rater saw the reply that the dataset prefers; None if the dataset has no preference.
        first: side on which this rater saw the item's first reply, so that sides can be compared without a label.
        ratings: by side, the rating of each principle.
        expected: the dataset's own values for an item without two replies, under the names of ratings.
        repeat: 0 if the rater saw the item for the first time, 1 for the second time.
        seconds: time that the answer took.
        risk, topic, language: groups of speeches that figures are broken down by.
        comment: free text, which no figure and no output shows.
    """

    item: str
    speech: str
    rater: str
    choice: str | None
    label: str | None = None
    first: str | None = None
    ratings: Ratings = field(default_factory=dict)
    expected: Ratings = field(default_factory=dict)
    repeat: int = 0
    seconds: float | None = None
    risk: str | None = None
    topic: str | None = None
    language: str | None = None
    comment: str | None = None

    @property
    def known_side(self) -> str | None:
        """Side of the one reply that all raters' sides are compared by: the preferred one, else the first one."""
        return self.label or self.first


COLUMNS = tuple(ExpertAnswer.__dataclass_fields__)


@dataclass(frozen=True)
class AnswerFormat:
    """Names of a file's columns and values.

    Attributes:
        columns: the file's column by field of ExpertAnswer, where the names differ.
        values: left, right, tie or harmful, by the file's word for it, for choice and label.
        dimensions: columns that each hold a rating of an item's single reply.
        rating_range: lowest and highest rating.
        not_rated: numbers that stand for "does not apply" and are left out.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    dimensions: Sequence[str] = ()
    rating_range: Sequence[float] = (1, 5)
    not_rated: Sequence[float] = ()


def read_answers(rows: Iterable[tuple[str, Mapping[str, Any] | UserError]], form: AnswerFormat) -> list[ExpertAnswer]:
    """Return the answers in `rows`. Each row comes with its place, in the form of `data.sources.read_rows`.

    Raises:
        UserError: naming the place, if a row is not a valid answer, contradicts another row, or is a duplicate.
    """
    answers, places = list[ExpertAnswer](), dict[tuple[str, str, int], str]()
    speeches: dict[str, str] = {}
    labelled: dict[str, bool] = {}
    expected: dict[str, Ratings] = {}
    for where, row in _by_rater(rows, form):
        answer = _answer(row, where, form)
        if answer is None:
            continue
        key = (answer.item, answer.rater, answer.repeat)
        if key in places:
            raise UserError(
                f"{where}: same item, rater and repeat as in {places[key]}; keep one row, or set repeat to 1 in the second"
            )
        places[key] = where
        if speeches.setdefault(answer.item, answer.speech) != answer.speech:
            raise UserError(
                f"{where}: an earlier row of this item has another speech; an item must belong to one speech"
            )
        if labelled.setdefault(answer.item, answer.label is not None) != (answer.label is not None):
            raise UserError(
                f"{where}: some rows of this item have a label and others do not; give it in all rows or in none"
            )
        if expected.setdefault(answer.item, answer.expected) != answer.expected:
            raise UserError(
                f"{where}: an earlier row of this item has other values of expected; give the same values in all rows"
            )
        answers.append(answer)
    if not answers:
        raise UserError("the table of answers is empty")
    return answers


_RESPONSES, _USERS, _STATUS = ".responses", ".responses.users", ".responses.status"


def _by_rater(
    rows: Iterable[tuple[str, Mapping[str, Any] | UserError]], form: AnswerFormat
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows, and in place of a record of Argilla's export a row for each rater, with a column for each question.

    Such a record has lists of the same length: QUESTION.responses, QUESTION.responses.users and QUESTION.responses.status.
    Answers that were not submitted are left out. Without `agreement.dimensions`, all questions answered by numbers are ratings.
    """
    for where, row in rows:
        if isinstance(row, UserError):
            raise row
        questions = [name.removesuffix(_USERS) for name in row if name.endswith(_USERS)]
        if not questions:
            yield where, row
            continue
        record = {name: value for name, value in row.items() if _RESPONSES not in name} | {
            "item": row.get("item", row.get("id"))
        }
        by_user: dict[str, dict[str, Any]] = {}
        for question in questions:
            users, responses, status = (row.get(question + part) or [] for part in (_USERS, _RESPONSES, _STATUS))
            if not all(isinstance(part, list) and len(part) == len(users) for part in (users, responses, status)):
                raise UserError(f"{where}: {question}{_RESPONSES}, .users and .status must be lists of the same length")
            for user, response, state in zip(users, responses, status, strict=True):
                if state == "submitted":
                    by_user.setdefault(str(user), {})[question] = response
        for user, answered in by_user.items():
            numbers = {name: value for name, value in answered.items() if type(value) in (int, float)}
            ratings = {} if form.dimensions else {"ratings": numbers}
            yield where, {**record, **answered, **ratings, "rater": user}


def _answer(row: Mapping[str, Any], where: str, form: AnswerFormat) -> ExpertAnswer | None:
    """Return the row's answer; None if nothing applies (`not_rated`)."""
    given = {name: _known(row.get(form.columns.get(name, name))) for name in COLUMNS}
    for name in ("item", "rater"):
        if given[name] is None:
            column = form.columns.get(name, name)
            raise UserError(
                f"{where}: {column} is missing; if the column has another name, give agreement.columns={{{name}: COLUMN}}"
            )
    ratings = _ratings(given["ratings"], "ratings", {name: row.get(name) for name in form.dimensions}, where, form)
    expected = _ratings(given["expected"], "expected", {}, where, form)
    if expected.keys() - {ONE_REPLY}:
        raise UserError(f'{where}: expected must be an object such as {{"expected_action": 3}}, without sides')
    choice = _word(given["choice"], "choice", CHOICES, where, form)
    if choice is None and not ratings:
        if form.not_rated and (given["ratings"] or any(row.get(name) is not None for name in form.dimensions)):
            return None
        raise UserError(
            f"{where}: this row has neither a choice nor ratings; name their columns in agreement.columns or agreement.dimensions"
        )
    texts = {
        name: None if given[name] is None else str(given[name]) for name in ("risk", "topic", "language", "comment")
    }
    return ExpertAnswer(
        item=str(given["item"]),
        speech=str(given["item"] if given["speech"] is None else given["speech"]),
        rater=str(given["rater"]),
        choice=choice,
        label=_word(given["label"], "label", SIDES, where, form),
        first=_word(given["first"], "first", SIDES, where, form),
        ratings=ratings,
        expected=expected,
        repeat=_repeat(given["repeat"], where),
        seconds=None if given["seconds"] is None else _number(given["seconds"], "seconds", where, (0, math.inf)),
        **texts,
    )


def _known(value: Any) -> Any:
    """Return a cell's value, or None if it is missing, because tables without nulls hold empty texts, NA or NaN."""
    if is_missing(value):
        return None
    return value.strip() if isinstance(value, str) else value


def _word(value: Any, name: str, words: Sequence[str], where: str, form: AnswerFormat) -> str | None:
    if value is None:
        return None
    word = form.values.get(str(value), str(value))
    if word not in words:
        raise UserError(
            f"{where}: {name} must be one of {', '.join(words)}; map other words by agreement.values={{WORD: {words[0]}}}"
        )
    return word


def _repeat(value: Any, where: str) -> int:
    number = 0.0 if value is None else _number(value, "repeat", where, (0, 1))
    if number not in (0, 1):
        raise UserError(f"{where}: repeat must be 0 or 1")
    return int(number)


def _number(value: Any, name: str, where: str, limits: Sequence[float]) -> float:
    low, high = limits
    number = as_number(value)
    if not low <= number <= high:
        raise UserError(f"{where}: {name} must be a number from {low:g} to {high:g}{comma_hint(value)}")
    return number


def _ratings(value: Any, column: str, flat: Mapping[str, Any], where: str, form: AnswerFormat) -> Ratings:
    """Return the ratings in a cell. `flat` holds ratings of the item's single reply from columns of their own."""
    if isinstance(value, str):  # from a CSV file
        try:
            value = json.loads(value, object_pairs_hook=without_doubles)
        except UserError as error:
            raise UserError(f"{where}: {column} {error}") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f'{where}: {column} must be a JSON object such as {{"left": {{"empathy": 4}}}}') from error
    if value is not None and not isinstance(value, Mapping):
        raise UserError(
            f"{where}: {column} must be an object with a number for each principle, for one reply or for each side"
        )
    by_side: dict[str, Mapping[str, Any]]
    given = dict(value or {})
    if given and all(side in SIDES for side, inner in given.items() if inner is not None):
        by_side = {side: inner for side, inner in given.items() if inner is not None}
    else:
        by_side = {ONE_REPLY: given}
    if flat:
        by_side[ONE_REPLY] = {**by_side.get(ONE_REPLY, {}), **flat}
    ratings: Ratings = {}
    for side, inner in by_side.items():
        if not isinstance(inner, Mapping):
            raise UserError(f"{where}: {column} of {side} must be an object with a number for each principle")
        known = {str(name): _known(rating) for name, rating in inner.items()}
        numbers = {
            name: _number(rating, f"the rating of {name}", where, form.rating_range)
            for name, rating in known.items()
            if rating is not None and as_number(rating) not in form.not_rated
        }
        if numbers:
            ratings[side] = numbers
    return ratings
