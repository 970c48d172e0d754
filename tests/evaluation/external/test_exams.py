"""Exams from users' files: formats of public exams, reading of letters, and figures compared with references."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from psychocounsel.errors import UserError
from psychocounsel.evaluation.external.exams import (
    ExamAsk,
    ExamItem,
    ExamSet,
    exam_asks,
    exam_set,
    is_exam_row,
    is_shuffled,
    read_letters,
)
from psychocounsel.evaluation.external.scores import ExamAnswer, difference, exam_figures, item_scores, sign_test

WANTED = ("Which is a cognitive distortion?", ("Grief", "Mind reading", "Sleep"), {1})


def one(row: dict[str, Any], **columns: str) -> ExamItem:
    assert is_exam_row(row, columns)
    (item,) = exam_set("exam", [("exam.jsonl: row 1", row)], columns).items
    return item


@pytest.mark.parametrize(
    "row",
    [
        {"question": WANTED[0], "choices": ["Grief", "Mind reading", "Sleep"], "answer": "B"},
        {"question": WANTED[0], "choices": '["Grief", "Mind reading", "Sleep"]', "answer": "b"},
        {
            "question": WANTED[0],
            "a": "Grief",
            "b": "Mind reading",
            "c": "Sleep",
            "d": None,
            "answer": "b: Mind reading",
        },
        {"question": WANTED[0], "a": "Grief", "b": "Mind reading", "c": "Sleep", "answer": ["b"]},
        {"question": WANTED[0], "options": {"A": "Grief", "B": "Mind reading", "C": "Sleep"}, "answer": "Mind reading"},
        {
            "question": WANTED[0],
            "choices": {"label": ["A", "B", "C"], "text": ["Grief", "Mind reading", "Sleep"]},
            "answerKey": "B",
        },
        {"question": WANTED[0], "opa": "Grief", "opb": "Mind reading", "opc": "Sleep", "cop": "(B)"},
        {"query": WANTED[0], "options": ["A. Grief", "B. Mind reading", "C. Sleep"], "gold": "B."},
        {
            "stem": WANTED[0],
            "option_a": "Grief",
            "option_b": "Mind reading",
            "option_c": "Sleep",
            "correct_answer": "B",
        },
    ],
)
def test_layouts_of_public_sets_say_the_same(row: dict[str, Any]) -> None:
    item = one(row)
    assert (item.question, item.choices, {*item.right}) == WANTED


def test_named_columns_come_first_and_several_choices_may_be_right() -> None:
    row = {"question": "wrong", "frage": "Which two?", "options": ["x", "y", "z"], "answer": "A, C", "area": "law"}
    item = one(row, question="frage", topic="area")
    assert (item.question, item.right, item.topic) == ("Which two?", {0, 2}, "law")
    assert one({**row, "answer": "AC"}).right == one({**row, "answer": ["A", "C"]}).right == {0, 2}


def rows(*answers: Any) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"f: row {n}", {"question": f"Question {n}?", "choices": ["u", "v", "w"], "answer": answer})
        for n, answer in enumerate(answers, 1)
    ]


def test_places_are_counted_from_what_the_file_shows() -> None:
    assert [min(item.right) for item in exam_set("f", rows(0, 2, 1), {}).items] == [0, 2, 1]
    assert [min(item.right) for item in exam_set("f", rows("3", "1", "2"), {}).items] == [2, 0, 1]
    for answers, said in [((1, 2), "from 0 or from 1"), ((0, 3), "write letters")]:
        with pytest.raises(UserError, match=said):
            exam_set("f", rows(*answers), {})


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "SECRET?", "choices": ["u", "v"]}, "has no answer"),
        ({"choices": ["u", "v"], "answer": "A"}, "has no question"),
        ({"question": "SECRET?", "choices": ["SECRET"], "answer": "A"}, "needs 2 to 26 choices"),
        ({"question": "SECRET?", "choices": ["u", "u"], "answer": "A"}, "same text"),
        ({"question": "SECRET?", "choices": ["u", "v"], "answer": "C"}, "not a letter"),
        (
            {"question": "SECRET?", "choices": ["2", "0", "1"], "answer": 0},
            "the answer 0 is a position, and the text of another",
        ),
        ({"question": "SECRET?", "choices": ["u", "v"], "answer": "²"}, "not a letter"),
        ({"question": "SECRET?", "choices": ["u", "v"], "answer": "\uff11"}, "not a letter"),
        ({"question": "SECRET?", "choices": '{"A": "u", "B": "v", "A": "w"}', "answer": "A"}, "has the key A twice"),
        (
            {"question": "SECRET?", "choices": {"label": ["A", "B", "A"], "text": ["u", "v", "w"]}, "answer": "A"},
            "the choices must be text",
        ),
        (
            {"question": "SECRET?", "choices": {"label": [["A"], ["B"]], "text": ["u", "v"]}, "answer": "A"},
            "labelled A, B",
        ),
        ({"question": "SECRET?", "choices": ["u", "v"], "answer": "A: v"}, "another choice"),
        ({"question": "SECRET?", "choices": {"x": "u", "y": "v"}, "answer": "x"}, "labelled A, B"),
    ],
)
def test_wrong_rows_are_named_and_not_quoted(row: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        exam_set("f", [("f.jsonl: row 7", row)], {})
    assert "f.jsonl: row 7" in str(caught.value) and "SECRET" not in str(caught.value)


def test_equal_rows_count_once_and_may_not_disagree() -> None:
    twice = [*rows("A"), *rows("A")]
    assert (len(exam_set("f", twice, {}).items), exam_set("f", twice, {}).repeated) == (1, 1)
    with pytest.raises(UserError, match="another answer"):
        exam_set("f", [*rows("A"), *rows("B")], {})


CHOICES = ("Grief", "A bond", "Sleep")


@pytest.mark.parametrize(
    "text",
    ["B", "b", " B.\n", "(B)", "**B**", "**Answer: B**", "The correct answer is B.", "B) A bond", "B. a bond.",
     "Answer: (b) A bond", "\\boxed{B}", "<think>C? No.</think>\nB", "`B`"],
)  # fmt: skip
def test_letters_that_are_read(text: str) -> None:
    assert read_letters(text, CHOICES, several=False) == {1}


@pytest.mark.parametrize(
    "text",
    ["", "A client who grieves", "I think it is B", "B or C", "A, B", "D", "B. Grief", "A bond", "BC", "It is not A, but B.",
     "<think>B"],
)  # fmt: skip
def test_what_says_more_or_less_is_unreadable(text: str) -> None:
    assert read_letters(text, CHOICES, several=False) is None


def test_lists_of_letters() -> None:
    for text in ("A, C", "AC", "A and C", "Answers: A; C", "(A, C)", "\\boxed{A, C}", "C, A."):
        assert read_letters(text, CHOICES, several=True) == {0, 2}, text
    assert read_letters("B", CHOICES, several=True) == {1}
    assert read_letters("A, A", CHOICES, several=True) is None


def exam(count: int, seed: int = 0, contexts: int = 0) -> ExamSet:
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        row = {
            "question": f"Q{number}?",
            "choices": [f"{c} of {number}" for c in "uvwx"],
            "answer": "ABCD"[rng.integers(4)],
        }
        row |= {"topic": "ethics" if number % 3 else "law"}
        row |= {"context": f"Case {number % contexts}."} if contexts else {}
        found.append(("f", row))
    return exam_set("f", found, {})


def right_place(ask: ExamAsk) -> int:
    return ask.shown.index(min(ask.item.right))


def answered(exam: ExamSet, choose: Any, setting: str = "mine", shuffles: int = 0, seed: int = 0) -> list[ExamAnswer]:
    """Return answers made by `choose(ask)`, which returns the position of the chosen letter as shown, or None."""
    found = []
    for ask in exam_asks(exam.items, shuffles, 0):
        place = choose(ask)
        chosen = None if place is None else frozenset([place])
        found.append(
            ExamAnswer(ask.item.item, setting, seed, ask.order, ask.shown, "text" if chosen else "unreadable", chosen)
        )
    return found


def test_orders_are_random_the_same_each_time_and_say_what_they_show() -> None:
    items = exam(200).items
    asks = [*exam_asks(items, 2, 7)]
    assert len(asks) == 600 and asks == [*exam_asks(items, 2, 7)]
    assert [ask.shown for ask in asks if ask.order == 0] == [(0, 1, 2, 3)] * 200
    shuffled = [ask for ask in asks if ask.order]
    firsts = np.bincount([ask.shown[0] for ask in shuffled], minlength=4)
    assert firsts.min() > 60, "each choice comes first about as often: 100 of 400"
    assert asks != [*exam_asks(items, 2, 8)]
    for ask in shuffled:
        lines = ask.messages[-1]["content"].split("\n\n")[-1].split("\n")
        assert lines == [
            f"{letter}. {ask.item.choices[place]}" for letter, place in zip("ABCD", ask.shown, strict=True)
        ]


def test_choices_that_name_others_stay_where_they_are() -> None:
    row = {"question": "Q?", "choices": ["u", "v", "All of the above"], "answer": "C"}
    item = one(row)
    assert not is_shuffled(item) and [ask.order for ask in exam_asks([item], 3, 0)] == [0]
    for last in ("A and B", "None of these", "Both A and B", "neither A nor B"):
        assert not is_shuffled(one({**row, "choices": ["u", "v", last]}))


def test_a_model_that_always_says_b_is_seen() -> None:
    found = exam(300)
    figures = exam_figures(found, answered(found, lambda ask: 1, shuffles=3))
    mine = figures["settings"]["mine"]
    assert mine["letters"]["B"]["chosen"] == 1 and mine["letters"]["B"]["accuracy_where_right"] == 1
    assert mine["letters"]["A"]["accuracy_where_right"] == 0
    assert abs(mine["accuracy"] - 0.25) < 0.03 and figures["chance"] == 0.25
    assert mine["same_choice_in_all_orders"] < 0.1
    knows = exam_figures(found, answered(found, right_place, shuffles=1))
    assert knows["settings"]["mine"]["accuracy"] == knows["settings"]["mine"]["same_choice_in_all_orders"] == 1
    low, high = knows["settings"]["mine"]["interval"]
    assert low < 1 == high, "every answer right promises no certainty"


def test_missing_answers_are_not_scored_and_unreadable_ones_are_wrong() -> None:
    found = exam(4)
    right = answered(found, right_place)
    outcomes = ["text", "unreadable", "failed", "refused"]
    answers = [
        ExamAnswer(each.item, "mine", 0, 0, each.shown, outcome, each.chosen if outcome == "text" else None)
        for each, outcome in zip(right, outcomes, strict=True)
    ]
    mine = exam_figures(found, answers)["settings"]["mine"]
    assert (mine["accuracy"], mine["scored_items"]) == (pytest.approx(1 / 3), 3)
    assert mine["outcomes"] == {"failed": 1, "refused": 1, "text": 1, "unreadable": 1} and mine["unreadable"] == 0.25
    np.testing.assert_array_equal(item_scores(found, answers), [1, 0, np.nan, 0])


def test_baselines() -> None:
    found = exam(40)
    letters = [min(item.right) for item in found.items]
    commonest = exam_figures(found, answered(found, lambda ask: 0))["commonest_letter"]
    assert commonest == {
        "letter": "ABCD"[int(np.bincount(letters).argmax())],
        "accuracy": np.bincount(letters).max() / 40,
    }
    both = exam_set("f", [("f", {"question": "Q?", "choices": ["u", "v", "w"], "answer": "AB"})], {})
    figures = exam_figures(both, answered(both, lambda ask: 0))
    assert figures["chance"] == 1 / 4, "of AB, AC, BC, ABC"
    assert figures["commonest_letter"]["letter"] is None, "no item has one right choice"


def test_the_difference_is_paired_and_tested_exactly() -> None:
    found, rng = exam(150), np.random.default_rng(3)
    mine, base = rng.random(150) < 0.7, rng.random(150) < 0.5
    result = difference(found, mine.astype(float), base.astype(float), "base")
    better, worse = int((mine & ~base).sum()), int((~mine & base).sum())
    assert (result["better"], result["worse"]) == (better, worse)
    assert result["p"] == pytest.approx(binomtest(better, better + worse).pvalue)
    assert result["difference"] == pytest.approx(mine.mean() - base.mean())
    error = np.std(mine.astype(float) - base, ddof=1) / np.sqrt(150)
    np.testing.assert_allclose(result["interval"], result["difference"] + np.array([-1.96, 1.96]) * error, atol=0.02)


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (0, 1), (3, 9), (30, 30), (200, 140)])
def test_sign_test_is_the_binomial_one(better: int, worse: int) -> None:
    wanted = binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert sign_test(better, worse) == pytest.approx(wanted)


def test_items_of_a_context_are_resampled_together() -> None:
    widths = []
    for found in (exam(120, contexts=6), exam(120)):
        right = {item.item for number, item in enumerate(found.items) if number % 6 < 3}
        answers = answered(found, lambda ask, right=right: right_place(ask) if ask.item.item in right else None)
        mine = exam_figures(found, answers)["settings"]["mine"]
        assert mine["accuracy"] == 0.5
        widths.append(mine["interval"][1] - mine["interval"][0])
    assert widths[0] > 3 * widths[1], "six contexts say less than 120 items"


def test_topics_and_seeds() -> None:
    found, rng = exam(90), np.random.default_rng(0)
    by_seed = [answered(found, lambda ask: int(rng.integers(4)), seed=seed) for seed in (0, 1)]
    figures = exam_figures(found, [*by_seed[0], *by_seed[1]], base="mine")
    mine, each = figures["settings"]["mine"], []
    for answers in by_seed:
        hits = [answer.choices == item.right for answer, item in zip(answers, found.items, strict=True)]
        each.append(np.mean(hits))
    assert mine["seeds"]["accuracies"] == pytest.approx(each)
    assert mine["seeds"]["sd"] == pytest.approx(np.std(each, ddof=1))
    assert mine["accuracy"] == pytest.approx(np.mean(each))
    topics = mine["topics"]
    assert topics["law"]["items"] == 30 and topics["ethics"]["items"] == 60
    assert (topics["law"]["accuracy"] + 2 * topics["ethics"]["accuracy"]) / 3 == pytest.approx(mine["accuracy"])
    json.dumps(figures, allow_nan=False)
    assert figures["against"] == {}


def test_files_of_every_kind_give_the_same_items(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from psychocounsel.evaluation.external.set_files import read_set

    found = [{"question": f"Q{n}, really?", "A": "yes", "B": "no", "answer": "AB"[n % 2]} for n in range(5)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    pq.write_table(pa.Table.from_pylist(found), tmp_path / "b.parquet")
    lines = ["question,A,B,answer", *(f'"{row["question"]}",{row["A"]},{row["B"]},{row["answer"]}' for row in found)]
    (tmp_path / "c.csv").write_text("\n".join(lines) + "\n")
    sets = [
        read_set({"path": str(tmp_path / name)}, "evaluation.sets[0]") for name in ("a.jsonl", "b.parquet", "c.csv")
    ]
    assert [each.name for each in sets] == ["a", "b", "c"]
    assert sets[0].items == sets[1].items == sets[2].items and len(sets[0].items) == 5
    assert len(read_set({"path": str(tmp_path / "a.jsonl"), "limit": 2}, "evaluation.sets[0]").items) == 2
