"""Tests of practice items, which come from the rubric's own examples."""

from collections import Counter

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.counsel.rubric.rubric_folder import load_rubric
from psychocounsel.experts.review.practice_items import practice_pairs, practice_round

RUBRIC = load_rubric()


def test_the_better_reply_is_the_one_that_the_rubric_rates_two_points_higher() -> None:
    items = practice_round(RUBRIC, 20, (0, 0), 0)
    for item in items:
        levels = RUBRIC.principles[item.principle].levels
        rating = {example.reply: number for number, level in levels.items() for example in level.examples}
        left, right = rating[item.left], rating[item.right]
        assert (left, right) == item.ratings and abs(left - right) >= 2
        assert item.better == ("left" if left > right else "right")
        assert item.speech in RUBRIC.principles[item.principle].speeches.values()
    assert 3 < sum(item.better == "left" for item in items) < 17


def test_a_round_goes_through_the_principles_and_the_next_one_shows_others() -> None:
    first, second = practice_round(RUBRIC, 7, (0, 0), 0), practice_round(RUBRIC, 7, (0, 0), 1)
    assert Counter(item.principle for item in first) == dict.fromkeys(PRINCIPLES, 1)
    assert not {(item.left, item.right) for item in first} & {(item.left, item.right) for item in second}
    assert [item.left for item in first] != [item.left for item in practice_round(RUBRIC, 7, (0, 1), 0)]


def test_the_shipped_rubric_has_enough_for_the_default_rounds() -> None:
    assert len(practice_pairs(RUBRIC)) >= 2 * 20
