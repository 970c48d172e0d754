"""Processes that share a directory keep its budget together, whenever each of them starts or restarts."""

import random
from contextlib import closing
from pathlib import Path

import pytest

from psychocounsel.asking.answers import Answers
from psychocounsel.asking.budget import Budget, level
from psychocounsel.asking.language_model import Answer
from tests.support.asking import chat, question

SHARES, COST, CALLS = 4, 10.0, 150  # each call costs 0.1 or 0.4


def buy(folder: Path, share: tuple[int, int], cost: float | None, calls: int | None, most: int) -> None:
    """The calls that one process buys, at most `most`, before it is killed or its budget is spent."""
    model = chat("http://127.0.0.1:1")
    with closing(Answers(folder, share)) as answers:
        budget = Budget.of(cost, calls, answers, [model])
        for _ in range(most):
            price = random.choice((0.1, 0.4))
            if not budget.hold(price):
                return
            number = answers.journal.total.calls * 1000 + share[0]
            answers.keep([(model, question(number), 0, Answer("text", "Yes."), price)])
            budget.release(price, price)


@pytest.mark.parametrize("seed", range(4))
def test_shares_that_begin_at_any_time_keep_the_budget(tmp_path: Path, seed: int) -> None:
    random.seed(seed)
    buy(tmp_path, (0, 1), COST, None, 5)  # before the work was shared
    for limits in ((COST, None), (None, CALLS)):
        begun = list(range(SHARES)) * 5  # each is requeued four times and continues its share each time
        random.shuffle(begun)
        for index in begun:
            buy(tmp_path, (index, SHARES), *limits, most=random.randint(1, 9))
        for index in range(SHARES):
            buy(tmp_path, (index, SHARES), *limits, most=99)
        with closing(Answers(tmp_path)) as answers:
            total = answers.journal.total
        if limits[0] is not None:
            assert COST - SHARES * 0.4 < total.cost <= COST + 1e-9
        else:
            assert CALLS - SHARES < total.calls <= CALLS


def test_a_share_that_has_more_than_its_part_leaves_less_to_the_others() -> None:
    assert level(12, [0, 0, 0]) == 4
    assert level(12, [6, 1, 0]) == 3, "6 of 12 are spent, and two processes share the rest"
    assert level(12, [6, 3, 2.5]) == 3, "purchases of the others do not change the level"
    assert level(12, [6, 5, 0]) == 1
    assert level(3, [6, 5, 0]) == 0 and level(-1, [0, 0]) == 0
