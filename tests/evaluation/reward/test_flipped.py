"""Flipped pairs: a scorer that ignores the client wins half of them, a scorer that uses the speech wins more."""

import numpy as np
import pytest

from psychocounsel.evaluation.reward.flipped import flipped_figures, flipped_rows
from tests.support.preferences import example, random_pairs, text

FLIPPED = [
    example(0, "I have decided.", "Here is how.", "What holds you?"),
    example(1, "I am torn.", "what holds  you?", "Here is how."),  # the same texts after normalisation
    example(2, "I have decided!", "Here is how.", "Be glad."),  # only one of the two replies
    example(3, "I am torn.", "What holds you?", "Be glad."),
    example(4, "Same client.", "A.", "B."),
    example(5, "same CLIENT.", "B.", "A."),  # contradicting labels, but the same client
]


def test_flipped_pairs_are_those_of_two_clients_with_opposite_labels() -> None:
    assert flipped_rows(FLIPPED).tolist() == [0, 1]
    assert flipped_figures(FLIPPED[2:], np.ones(4)) == {}


def quartets(count: int) -> list:  # type: ignore[type-arg]
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        first, second = text(rng), text(rng)
        rows.append(example(2 * number, f"{number} a {text(rng)}", first, second))
        rows.append(example(2 * number + 1, f"{number} b {text(rng)}", second, first))
    return rows


def test_a_scorer_of_replies_alone_wins_exactly_half() -> None:
    rows = [*quartets(40), *random_pairs(10, seed=1)]
    values = np.array([[len(set(reply)) + len(reply) / 1e3 for reply in row.replies] for row in rows])
    found = flipped_figures(rows, values[:, 0] - values[:, 1])
    assert found["flipped_pairs"] == 80
    assert found["flipped_accuracy"] == found["flipped_accuracy_low"] == found["flipped_accuracy_high"] == 0.5


def test_one_that_reads_wins_more_and_the_interval_is_by_quartet() -> None:
    rows, rng = quartets(60), np.random.default_rng(0)
    right = np.repeat(rng.random(60) < 0.8, 2)  # both pairs of a quartet
    margins = np.where(right, 1.0, np.tile([1.0, -1.0], 60))
    found = flipped_figures(rows, margins)
    share = right.mean() + (1 - right.mean()) / 2
    assert found["flipped_accuracy"] == pytest.approx(share)
    by_quartet = np.where(right, 1, 0.5)[::2]
    draws = rng.choice(by_quartet, (4000, 60)).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert found["flipped_accuracy_low"] == pytest.approx(low, abs=0.01)
    assert found["flipped_accuracy_high"] == pytest.approx(high, abs=0.01)
