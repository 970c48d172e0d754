"""Duplicates, contradictions and shared texts equal counts by hand."""

import numpy as np

from psychocounsel.evaluation.audit.audited_pairs import RatedReplies, pairs_from
from psychocounsel.evaluation.audit.disagreement import contradictions, rating_disagreement
from psychocounsel.evaluation.audit.repeats import Texts, repeats, shared
from tests.support.preferences import example

LONG = "it sounds as if the nights have become the hardest part of your week since the move to the new flat"
OTHER = "thank you for telling me about the party last week and about what your brother said to everyone there"
ROWS = [
    example(0, "I cannot sleep.", LONG, "No."),
    example(1, "i cannot sleep.", LONG.upper(), "no."),  # the same pair once more
    example(2, "I cannot sleep.", "No.", LONG),  # the same pair with the opposite label
    example(3, "My brother shouted.", OTHER, "no."),  # a reply of another prompt
    example(4, "My dog died.", f"{OTHER} today", f"{OTHER} now"),  # near duplicates of each other and of another reply
    example(5, "Alone.", "Why?", "Oh."),
]


def test_what_a_set_repeats() -> None:
    pairs = pairs_from(ROWS)
    assert repeats(pairs, Texts(pairs), 0.8) == {
        "repeated_pairs": 1,
        "reused_replies": 1,  # "no."
        "pairs_with_reused": 4,
        "near_prompts": 0,
        "near_replies": 3,
        "near_pairs": 1,
        "near_prompts_apart": 0,
        "near_replies_apart": 3,
    }


def test_the_same_two_replies_in_both_orders_contradict() -> None:
    rows = [ROWS[0], example(1, "i cannot sleep.", LONG, "No."), ROWS[2], *ROWS[3:]]
    assert contradictions(pairs_from(rows)) == {"repeated": 1, "contradicted": 1}
    assert contradictions(pairs_from(rows[:2])) == {"repeated": 1, "contradicted": 0}
    assert contradictions(pairs_from(rows[3:])) == {"repeated": 0, "contradicted": 0}


def test_a_copy_in_other_letters_is_the_same_pair() -> None:
    rows = [example(0, "I cannot sleep.", "Since when?", "Go."), example(1, "I cannot sleep.", "GO.", "since  when?")]
    assert contradictions(pairs_from(rows)) == {"repeated": 1, "contradicted": 1}


def test_what_a_set_shares_with_another() -> None:
    pairs = pairs_from(ROWS)
    others = [
        example(0, "ALONE.", "Something else.", "Go."),
        example(1, "My cat died.", f"{OTHER} again", "No."),
    ]
    assert shared(pairs, Texts(pairs), others, 0.8) == {
        "rows": 2,
        "prompts": 1,
        "near_prompts": 0,
        "replies": 1,  # "no."
        "near_replies": 3,  # of OTHER
        "pairs": 6,  # all pairs: four by "no.", one by a near duplicate, one by its prompt
    }
    assert shared(pairs, Texts(pairs), [example(0, "Unknown.", "New.", "Newer.")], 0.8)["pairs"] == 0


def test_replies_with_several_ratings_tell_how_far_these_lie_apart() -> None:
    ratings = np.array([[5.0, 3], [3, 3], [1, 1], [4, 4], [4, 2]])
    several = RatedReplies(["a", "a", "a", "b", "b"], ["x", "x", "y", "x", "x"], ratings)
    expected = np.mean([np.std([5, 3], ddof=1) / 2, np.std([4, 2], ddof=1) / 2])
    assert rating_disagreement(several) == {"replies": 2, "of": 3, "deviation": expected}
    assert rating_disagreement(RatedReplies(["a", "b"], ["x", "x"], ratings[:2])) is None
