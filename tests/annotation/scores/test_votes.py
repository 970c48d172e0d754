"""Agreement of repeated ratings compared with the formulas, written out."""

import random
from collections import Counter
from typing import Any

import pytest

from psychocounsel.annotation.scores.votes import Retest, agreement_of
from psychocounsel.counsel.principles import PRINCIPLES
from tests.support.annotation_tables import vote


def kappa_by_formula(pairs: list[tuple[int, int]]) -> float:
    """Cohen 1968 with squared weights: 1 - observed over expected squared differences, over all pairs of margins."""
    observed = sum((first - second) ** 2 for first, second in pairs) / len(pairs)
    expected = sum((first - second) ** 2 for first, _ in pairs for _, second in pairs) / len(pairs) ** 2
    return 1 - observed / expected


@pytest.mark.parametrize("noise", [0, 1, 4])
def test_agreement_is_that_of_the_formulas(noise: int) -> None:
    rng = random.Random(noise)
    pairs = []
    for _ in range(150):
        first = rng.randint(1, 5)
        pairs.append((first, min(5, max(1, first + rng.randint(-noise, noise)))))
    found = agreement_of(Counter([*pairs, (None, 3), (None, None), (2, None)]))
    assert found["replies"] == 150
    assert found["exact"] == pytest.approx(sum(first == second for first, second in pairs) / 150)
    assert found["difference"] == pytest.approx(sum(abs(first - second) for first, second in pairs) / 150)
    assert found["weighted_kappa"] == pytest.approx(kappa_by_formula(pairs))
    assert found["applicable_once"] == 2


def test_without_variety_kappa_is_undefined() -> None:
    assert agreement_of(Counter({(4, 4): 9}))["weighted_kappa"] is None
    assert agreement_of(Counter())["exact"] is None


def test_repeats_are_compared_with_the_first_vote_of_the_same_annotator() -> None:
    retest = Retest()
    rows: list[dict[str, Any]] = []
    for text, first, second in (
        ("x", [1] * 7, [1] * 7),
        ("y", [5] * 7, [3] * 7),
        ("z", [2] * 7, None),
        ("w", None, None),
    ):
        rows += [
            vote("s", text, first, "a"),
            vote("s", text, second, "a", repeat=1),
            vote("s", text, [4] * 7, "a", vote=1),
        ]
        rows += [vote("s", text, [4] * 7, "b")]  # not repeated
    retest.add(rows)
    figures = retest.figures()
    assert figures.keys() == {"a"}
    assert figures["a"]["rated_twice"] == 2
    assert figures["a"]["changed_outcome"] == 1
    assert figures["a"]["no_rating_twice"] == 1
    for name in PRINCIPLES:
        assert figures["a"]["principles"][name]["exact"] == 0.5
        assert figures["a"]["principles"][name]["difference"] == 1
