"""Figures of each principle of a reward model against brute force, and the tables that show them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from psychocounsel.blocks.cells import Titled
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.evaluation.reward.principles import principle_blocks, principle_figures
from tests.evaluation.reward.test_show import pairs

COUNT = 60


def test_figures_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(5)
    ratings = rng.integers(1, 6, (COUNT, 2, 7)).astype(float)
    scores = (ratings + rng.normal(0.5, 2, ratings.shape)).astype(np.float32)
    examples = pairs(COUNT)
    for row, example in enumerate(examples):
        rated = [dict(zip(PRINCIPLES, side, strict=True)) for side in ratings[row].tolist()]
        if row % 10 == 0:  # staging is not applicable
            rated = [{name: value for name, value in side.items() if name != "staging"} for side in rated]
        examples[row] = replace(example, some_ratings=rated)
    by_name = {name: scores[..., place] for place, name in enumerate(PRINCIPLES)}
    twice = {name: np.tile(values, (2, 1)) for name, values in by_name.items()}
    figures = principle_figures([*examples, *examples], twice, np.arange(2 * COUNT), 5)
    assert figures is not None
    for place, name in enumerate(PRINCIPLES):
        rows = [row for row in range(COUNT) if name != "staging" or row % 10]
        known_scores, known_ratings = scores[rows, :, place].ravel().astype(float), ratings[rows, :, place].ravel()
        wins = [
            (scores[row, 0, place] > scores[row, 1, place]) == (ratings[row, 0, place] > ratings[row, 1, place])
            for row in rows
            if ratings[row, 0, place] != ratings[row, 1, place]
        ]
        found = figures["principles"][name]
        assert (found["pairs"], found["accuracy"]) == (2 * len(wins), pytest.approx(np.mean(wins)))
        assert found["accuracy_low"] <= found["accuracy"] <= found["accuracy_high"]
        assert found["bias"] == pytest.approx((known_scores - known_ratings).mean())
        assert found["error"] == pytest.approx(np.sqrt(np.square(known_scores - known_ratings).mean()))
        assert found["slope"] == pytest.approx(np.polyfit(known_scores, known_ratings, 1)[0])
    whole = [row for row in range(COUNT) if row % 10]
    for who, values in (("model", scores), ("raters", ratings)):
        matrix = np.corrcoef(values[whole].reshape(-1, 7).T.astype(float))
        assert figures["halo"][who]["mean_correlation"] == pytest.approx((matrix.sum() - 7) / 42)
        assert figures["halo"][who]["replies"] == 2 * len(whole), "each reply counts once"
    tables = principle_blocks([Titled("", figures)])
    assert [block.name for block in tables] == ["reward-principles", "reward-halo"]
    assert [row[0] for row in tables[0].table.rows] == [*PRINCIPLES]


@pytest.mark.filterwarnings("error")
def test_without_a_reply_rated_on_every_principle_there_is_no_halo() -> None:
    rated = [{"empathy": 2.0, "safety": 4.0}, {"empathy": 3.0, "safety": 1.0}]
    examples = [replace(example, some_ratings=rated) for example in pairs(9)]
    scores = {name: np.ones((9, 2), np.float32) for name in PRINCIPLES}
    figures = principle_figures(examples, scores, np.arange(9), 5)
    assert figures is not None and figures["halo"] == {} and "NaN" not in json.dumps(figures)
    assert [block.name for block in principle_blocks([Titled("", figures)])] == ["reward-principles"]


def test_without_ratings_there_are_none() -> None:
    scores = {name: np.zeros((3, 2), np.float32) for name in PRINCIPLES}
    assert principle_figures(pairs(3), scores, np.arange(3), 5) is None
