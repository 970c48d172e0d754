"""Tests of tables of answers: valid rows, and refusals that name the place."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.data.sources import StandardSource, read_rows
from psychocounsel.errors import UserError
from psychocounsel.experts.agreement.answers import AnswerFormat, ExpertAnswer, read_answers

GOOD = {"item": "i1", "speech": "s1", "rater": "e1", "choice": "left", "label": "left"}


def read(rows: list[Mapping[str, Any]], folder: Path, **form: Any) -> list[ExpertAnswer]:
    file = folder / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_answers(read_rows(StandardSource(), str(file), "train", None), AnswerFormat(**form))


def test_a_row_of_all_columns(tmp_path: Path) -> None:
    ratings = {"left": {"empathy": 4}, "right": {"empathy": None, "clarity": 2}}
    (found,) = read([{**GOOD, "ratings": ratings, "repeat": 1, "seconds": 12.5, "risk": "high"}], tmp_path)
    assert (found.item, found.speech, found.rater, found.choice, found.label) == ("i1", "s1", "e1", "left", "left")
    assert found.ratings == {"left": {"empathy": 4.0}, "right": {"clarity": 2.0}}
    assert (found.repeat, found.seconds, found.risk, found.topic) == (1, 12.5, "high", None)


def test_annotations_of_others_come_by_a_map_of_columns(tmp_path: Path) -> None:
    rows = [{"id": "dialogue-1", "annotator": name, "Empathy": 5, "Ethics": 6} for name in ("a", "b")]
    columns = {"item": "id", "rater": "annotator"}
    answers = read(rows, tmp_path, columns=columns, dimensions=("Empathy", "Ethics"), rating_range=(1, 6))
    assert [answer.rater for answer in answers] == ["a", "b"]
    assert answers[0].ratings == {"reply": {"Empathy": 5.0, "Ethics": 6.0}} and answers[0].choice is None


def _question(name: str, users: list[str], responses: list[Any], status: str = "submitted") -> dict[str, list[Any]]:
    return {
        f"{name}.responses": responses,
        f"{name}.responses.users": users,
        f"{name}.responses.status": [status] * len(users),
    }


def test_an_export_of_argilla_is_read_as_it_is(tmp_path: Path) -> None:
    """Read a record in the form in which MindEval publishes its clinicians' ratings: all answers to a question in one list."""
    record = {
        "id": "session-1",
        "messages": [{"role": "user", "content": "I worry."}],
        **_question("empathy", ["a", "b"], [3, 6]),
        **_question("ethics", ["b", "a"], [0, 5]),
        **_question("reason", ["a"], ["too long"]),
        **_question("side", ["a", "b"], ["A", "B"]),
        **_question("tone", ["c"], [4], status="draft"),
        "note.responses": None,
        "note.responses.users": None,
        "note.responses.status": None,
    }
    answers = read([record], tmp_path, rating_range=(1, 6), not_rated=(0,))
    assert [(answer.item, answer.rater, answer.ratings) for answer in answers] == [
        ("session-1", "a", {"reply": {"empathy": 3.0, "ethics": 5.0}}),
        ("session-1", "b", {"reply": {"empathy": 6.0}}),
    ]
    unrated = {**_question("empathy", ["a", "b"], [0, 2]), "id": "session-2"}
    (only,) = read([unrated], tmp_path, rating_range=(1, 6), not_rated=(0,))
    assert only.rater == "b"
    file = tmp_path / "ratings.csv"
    file.write_text("item,rater,empathy\n1,a,0\n1,b,4\n")
    form = AnswerFormat(dimensions=["empathy"], not_rated=(0,))
    assert [answer.rater for answer in read_answers(read_rows(StandardSource(), str(file), "train", None), form)] == [
        "b"
    ]
    chosen = read(
        [record],
        tmp_path,
        dimensions=["ethics"],
        columns={"choice": "side"},
        values={"A": "left", "B": "right"},
        rating_range=(0, 6),
    )
    assert [(answer.choice, answer.ratings) for answer in chosen] == [
        ("left", {"reply": {"ethics": 5.0}}),
        ("right", {"reply": {"ethics": 0.0}}),
    ]
    with pytest.raises(
        UserError, match="line 1: empathy.responses, .users and .status must be lists of the same length"
    ):
        read([{**record, "empathy.responses": [3]}], tmp_path)


def test_other_words_for_sides_and_a_csv_file(tmp_path: Path) -> None:
    file = tmp_path / "answers.csv"
    file.write_text(
        'item,rater,choice,label,ratings\n7,e1,A,B,"{""left"": {""empathy"": 3}}"\n7,e2,,,"{""empathy"": 2}"\n'
    )
    form = AnswerFormat(values={"A": "left", "B": "right"})
    with pytest.raises(UserError, match="some rows of this item have a label and others do not"):
        read_answers(read_rows(StandardSource(), str(file), "train", None), form)
    file.write_text(file.read_text().replace("e2,,,", "e2,,A,"))
    first, second = read_answers(read_rows(StandardSource(), str(file), "train", None), form)
    assert (first.item, first.choice, first.label, first.speech) == ("7", "left", "right", "7")
    assert second.choice is None and second.ratings == {"reply": {"empathy": 2.0}}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"item": None}, "item is missing; if the column has another name, give agreement.columns={item: COLUMN}"),
        ({"rater": " "}, "rater is missing"),
        ({"choice": "A"}, "choice must be one of left, right, tie, harmful; map other words by agreement.values="),
        ({"label": "tie"}, "label must be one of left, right"),
        ({"choice": None}, "neither a choice nor ratings"),
        ({"repeat": 2}, "repeat must be a number from 0 to 1"),
        ({"ratings": [4]}, "ratings must be an object"),
        ({"ratings": "{"}, "ratings must be a JSON object"),
        ({"ratings": {"left": 4, "right": 5}}, "ratings of left must be an object"),
        ({"ratings": {"left": {"empathy": 6}}}, "the rating of empathy must be a number from 1 to 5"),
        ({"ratings": {"left": {"empathy": "4,5"}}}, "must be a number from 1 to 5; write decimals with a point"),
        ({"ratings": {"left": {"empathy": True}}}, "the rating of empathy must be a number from 1 to 5"),
        ({"ratings": {"left": {"empathy": 10**400}}}, "the rating of empathy must be a number from 1 to 5"),
        ({"ratings": {"left": {"empathy": "\uff11"}}}, "the rating of empathy must be a number from 1 to 5"),
        ({"ratings": {"left": {"empathy": "0_4"}}}, "the rating of empathy must be a number from 1 to 5"),
        ({"ratings": '{"left": {"empathy": 4, "empathy": 2}}'}, "ratings has the key empathy twice"),
        ({"ratings": '{"left": ' * 100_000}, "ratings must be a JSON object"),
        ({"repeat": True}, "repeat must be a number from 0 to 1"),
        ({"repeat": "\u0661"}, "repeat must be a number from 0 to 1"),
        ({"item": "i0"}, "same item, rater and repeat as in answers.jsonl line 1"),
        ({"item": "i0", "rater": "e2", "speech": "s9"}, "an earlier row of this item has another speech"),
    ],
)
def test_what_is_no_answer_is_refused_with_its_place(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"answers\.jsonl line 2: ") as refusal:
        read([{**GOOD, "item": "i0", "speech": "s1"}, {**GOOD, **row}], tmp_path)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the table of answers is empty"):
        read([], tmp_path)
