"""Values of cues compared with values counted by hand."""

import pytest

from psychocounsel.counsel.cues import CUES, cue_values
from psychocounsel.errors import UserError

REPLY = """# Plan

I\u2019m sorry, I HEAR you: **really**. You don't owe him 2 answers \u2013 not now...

- One (small) step
- "Rest" 🙂

What would you do?"""

BY_HAND = {
    "length": len(REPLY),
    "paragraphs": 5,
    "ending": 1,
    "questions": 1,
    "exclamations": 0,
    "commas": 1,
    "colons": 1,
    "dashes": 1,
    "quotes": 2,
    "brackets": 2,
    "ellipses": 1,
    "digits": 1,
    "capitals": 1,
    "emoji": 1,
    "contractions": 2,
    "bullets": 2,
    "headings": 1,
    "bold": 1,
    "starts_i": 0,
}


def test_cues_are_what_one_counts_by_hand() -> None:
    found = dict(zip(CUES, cue_values([REPLY])[0], strict=True))
    words = "plan i'm sorry i hear you really you don't owe him answers not now one small step rest what would you do"
    expected = BY_HAND | {"words": len(words.split())}
    assert {name: found[name] for name in expected} == expected
    count = len(words.split())
    assert found["first_person"] == pytest.approx(2 / count) and found["second_person"] == pytest.approx(3 / count)
    assert found["variety"] == pytest.approx(len(set(words.split())) / count**0.5)
    assert found["word_length"] == pytest.approx(sum(map(len, words.split())) / count)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Thank you for telling me.", "starts_thanks"),
        ("I'm so sorry to hear it.", "starts_sorry"),
        ("I\u2019m so sorry to hear it.", "starts_i"),
        ("You\u2019ve come far.", "starts_you"),
        ("That sounds hard.", "starts_it"),
    ],
)
def test_first_words(text: str, name: str) -> None:
    assert CUES[name](text) == 1 and CUES[name]("We " + text) == 0


@pytest.mark.parametrize(
    "closing",
    ["?", '?"', "?**", "?) ", "?\u201d\n", "\uff1f", "\u061f", "\uff1f\u300d", "\uff1f\uff09\n"],
)
def test_a_reply_ends_with_a_question_whatever_closes_it(closing: str) -> None:
    assert CUES["ending"](f"And you{closing}") == 1
    assert CUES["ending"](f"And you{closing} Yes.") == 0


@pytest.mark.parametrize(
    ("name", "marks"),
    [
        ("questions", "?\uff1f\u061f"),
        ("exclamations", "!\uff01"),
        ("commas", ",\uff0c\u3001\u060c"),
        ("colons", ":;\uff1a\uff1b\u061b"),
    ],
)
def test_marks_count_in_any_script(name: str, marks: str) -> None:
    """Full-width marks of Chinese and Japanese and Arabic marks count like ASCII marks."""
    for mark in marks:
        assert CUES[name](f"\u4f60{mark} \u597d{mark}.") == 2, ascii(mark)


def test_every_cue_of_a_text_without_words_is_finite() -> None:
    assert all(abs(value) < 10 for value in cue_values(["?!", "…", "1"]).ravel())


def test_values_stand_in_the_order_of_the_names() -> None:
    assert cue_values(["Why?", "Go on."], ["ending", "length"]).tolist() == [[1, 4], [0, 6]]
    with pytest.raises(UserError, match="'lenght' is not a cue; the cues are length, "):
        cue_values(["x"], ["lenght"])
