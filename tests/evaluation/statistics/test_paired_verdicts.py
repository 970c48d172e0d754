"""Both orders of a pair give one score, which does not depend on the setting that is called a."""

import numpy as np
import pytest

from psychocounsel.evaluation.statistics.paired_verdicts import prompt_means
from tests.evaluation.statistics.simulated import random_verdicts, verdicts


def test_two_orders_make_one_score() -> None:
    forward, backward = [1, -1, 0, 1, -1, 1, 0, -1], [1, -1, 0, -1, 1, 0, -1, 0]
    assert verdicts(forward, backward).scores().tolist() == [1, 0, 0.5, 0.5, 0.5, 0.75, 0.25, 0.25]


def test_one_order_alone_is_no_verdict() -> None:
    found = verdicts([1, np.nan, -1], [np.nan, 1, -1])
    assert np.isnan(found.scores()).tolist() == [True, True, False]
    assert prompt_means(found).prompts.tolist() == [2] and prompt_means(found).means.tolist() == [0]


def test_exchanged_sides_have_opposite_scores_and_all_their_columns() -> None:
    found = random_verdicts(200, seed=0)
    turned = found.turned()
    np.testing.assert_allclose(turned.scores(), 1 - found.scores())
    for name in ("seed_", "length_", "question_", "formatted_", ""):
        assert (getattr(turned, f"{name}a") == getattr(found, f"{name}b")).all()
    again = turned.turned()
    assert all(np.array_equal(getattr(again, name), each, equal_nan=True) for name, each in vars(found).items())


def test_a_pair_of_settings_is_found_on_both_sides() -> None:
    found = random_verdicts(300, seed=1, settings=3)
    expected = [
        (row, score if a == 2 else 1 - score)
        for row, (a, b, score) in enumerate(zip(found.a, found.b, found.scores(), strict=True))
        if {a, b} == {0, 2} and not np.isnan(score)
    ]
    pair = found.between(2, 0).judged()
    assert set(pair.a) == {2} and set(pair.b) == {0}
    assert sorted(pair.scores()) == sorted(score for _, score in expected)
    means = {int(prompt): [score for row, score in expected if found.prompt[row] == prompt] for prompt in pair.prompt}
    np.testing.assert_allclose(prompt_means(pair).means, [np.mean(means[prompt]) for prompt in sorted(means)])


@pytest.mark.parametrize(
    ("columns", "words"),
    [({"prompt": [1]}, "one length"), ({"forward": [2, 0]}, "-1, 0, 1"), ({"b": [0, 1]}, "with itself")],
)
def test_impossible_verdicts_are_refused(columns: dict[str, list[int]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        verdicts(**({"forward": [0, 1], "backward": [0, 1]} | columns))
