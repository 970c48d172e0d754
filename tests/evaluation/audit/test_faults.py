"""Repeated texts and contradictions equal counts by hand; halo figures equal their definitions and scipy's correlations."""

import numpy as np
import pytest
from scipy.stats import pearsonr

from psychocounsel.evaluation.audit.faults import (
    Texts,
    contradictions,
    cronbach,
    halo,
    rating_disagreement,
    repeats,
    shared,
)
from psychocounsel.evaluation.audit.pairs import RatedReplies, pairs_from
from tests.support.preferences import example

# Duplicates, contradictions and shared texts equal counts by hand.

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


# Halo figures equal their written-out definitions and scipy's correlations.

NAMES = ["empathy", "relevance", "clarity"]


def ratings(halo_share: float, count: int = 200) -> np.ndarray:
    rng = np.random.default_rng(0)
    common, own = rng.normal(size=(count, 1)), rng.normal(size=(count, 3))
    return np.clip(np.rint(3 + 1.2 * (halo_share * common + (1 - halo_share) * own)), 1, 5)


def alpha_by_covariances(table: np.ndarray) -> float:
    """Return k x mean covariance / (mean variance + (k - 1) x mean covariance)."""
    covariance = np.cov(table.T)
    count = len(covariance)
    between = (covariance.sum() - np.trace(covariance)) / (count * (count - 1))
    return float(count * between / (np.trace(covariance) / count + (count - 1) * between))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_alpha_components_and_correlations(share: float) -> None:
    table = ratings(share)
    found = halo(table, NAMES, top=5)
    assert found["alpha"] == pytest.approx(alpha_by_covariances(table))
    standard = (table - table.mean(0)) / table.std(0)
    singular = np.linalg.svd(standard, compute_uv=False) ** 2
    assert found["first_component"] == pytest.approx(singular[0] / singular.sum())
    expected = [[pearsonr(table[:, a], table[:, b]).statistic for b in range(3)] for a in range(3)]
    np.testing.assert_allclose(np.array(found["correlations"], float), expected, atol=1e-9)
    assert found["mean_correlation"] == pytest.approx(np.mean([expected[0][1], expected[0][2], expected[1][2]]))
    clarity = found["principles"]["clarity"]
    assert clarity["at_top"] == (table[:, 2] == 5).mean() and clarity["mean"] == pytest.approx(table[:, 2].mean())
    assert clarity["with_others"] == pytest.approx(pearsonr(table[:, 2], table[:, 0] + table[:, 1]).statistic)


def test_alpha_is_one_of_equal_columns_and_near_zero_of_unrelated_ones() -> None:
    column = np.array([1.0, 2, 2, 5, 3])
    assert cronbach(np.stack([column] * 4, 1)) == pytest.approx(1)
    assert abs(cronbach(ratings(0.0, 4000)) or 1) < 0.06


def test_a_principle_that_always_gets_the_same_rating_has_no_correlation() -> None:
    table = ratings(0.5)
    table[:, 1] = 5
    found = halo(table, NAMES, top=5)
    assert found["correlations"][1] == [None] * 3 and found["correlations"][0][2] == pytest.approx(
        pearsonr(table[:, 0], table[:, 2]).statistic
    )
    assert found["principles"]["relevance"] == {"mean": 5, "deviation": 0, "at_top": 1, "with_others": None}
    single = halo(table[:1], NAMES, top=5)
    assert (single["alpha"], single["first_component"], single["mean_correlation"]) == (None, None, None)
