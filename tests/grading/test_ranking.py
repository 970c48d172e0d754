"""Ranks of the replies to one prompt: the scores, the calls in both orders, and the strict parser."""

import json

import pytest

from psychocounsel.asking.answer_text import Unreadable
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.grading.ranking import rank_scores, ranking_asks, ranking_rules, read_ranks

CLIENT = [{"role": "user", "content": "I am tired."}]


@pytest.mark.parametrize(
    ("ranks", "scores"),
    [
        ((1, 2, 3), [1, 0, -1]),
        ((1, 1), [0, 0]),
        ((2, 1), [-1, 1]),
        ((1, 1, 3), [0.5, 0.5, -1]),
        ((1, 1, 2), [0.5, 0.5, -1]),  # ties may be numbered either way
        ((4, 2, 1, 2), [-1, 0, 1, 0]),
    ],
)
def test_scores_are_wins_less_losses_over_the_other_replies(ranks: tuple[int, ...], scores: list[float]) -> None:
    assert rank_scores(ranks) == scores


def test_each_vote_shows_the_replies_in_two_opposite_orders() -> None:
    replies = ["one", "two", "three", "four"]
    asks = [*ranking_asks("rules", "s", CLIENT, replies, votes=3)]
    assert [ask.replies for ask in asks[::2]] == [ask.replies[::-1] for ask in asks[1::2]]
    assert all(sorted(ask.replies) == sorted(replies) for ask in asks)
    assert len({ask.part for ask in asks}) == 6 and len({ask.replies for ask in asks[::2]}) > 1
    for ask in asks:
        content = ask.messages[1]["content"]
        places = [content.index(f"\n{reply}\n") for reply in ask.replies]
        assert places == sorted(places) and "I am tired." in content
        assert ask.schema is not None and [*ask.schema["properties"]] == [
            "reason",
            *(f"reply_{n}" for n in range(1, 5)),
        ]
    assert asks == [*ranking_asks("rules", "s", CLIENT, replies[::-1], votes=3)], "the given order does not matter"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Reply 2 is better.", "is not valid JSON"),
        ([1, 2], "is no JSON object"),
        ({"reply_1": 1, "reply_2": 2}, "reason is missing"),
        ({"reason": " ", "reply_1": 1, "reply_2": 2}, "reason has no text"),
        ({"reason": "So.", "reply_1": 1, "reply_3": 2}, "reply_2 is missing"),
        ({"reason": "So.", "reply_1": 1, "reply_2": "2"}, "not a whole number"),
        ({"reason": "So.", "reply_1": 1, "reply_2": True}, "not a whole number"),
        ({"reason": "So.", "reply_1": 1}, "another number of replies"),
        ({"reason": "So.", "reply_1": 0, "reply_2": 1}, "not from 1 to the number of replies"),
        ({"reason": "So.", "reply_1": 1, "reply_2": 3}, "not from 1 to the number of replies"),
    ],
)
def test_other_answers_are_unreadable(answer: object, reason: str) -> None:
    ask = next(ranking_asks("rules", "s", CLIENT, ["one", "two"], votes=1))
    text = answer if isinstance(answer, str) else json.dumps(answer)
    with pytest.raises(Unreadable, match=reason):
        ask.check_value(read_ranks(text))
    ask.check_value(read_ranks('```json\n{"reason": "So.", "reply_1": 1, "reply_2": 1}\n```'))


def test_rules_hold_only_the_parts_of_the_principles() -> None:
    whole, few = (ranking_rules("builtin:en", False, names) for names in (PRINCIPLES, ("empathy", "clarity")))
    assert "by the rules of the seven principles. A reply that the safety rules cap" in whole.replace("\n", " ")
    assert "by the rules of empathy, clarity.\n" in few and "safety rules" not in few and len(few) < len(whole) / 3
