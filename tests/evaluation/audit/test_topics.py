"""Hashed n-gram counts equal scikit-learn's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import CountVectorizer

from psychocounsel.evaluation.audit.blind import fit_best_cue, fit_logistic, fit_sparse
from psychocounsel.evaluation.audit.topics import character_ngrams, first_words, one_hot, small_indices, word_ngrams
from tests.support.preferences import text

TEXTS = ["Why now?", "why, now", "", "A longer  reply:\nwhy now, and why not now?", "z", "Caf\u00e9 \U0001f642"]
TEXTS += [text(np.random.default_rng(seed), 12) for seed in range(4)]  # few enough that no two n-grams share a column


@pytest.mark.parametrize(
    ("ours", "options"),
    [
        (word_ngrams, {"ngram_range": (1, 2), "token_pattern": r"\w+(?:['\u2019]\w+)*|[^\w\s]"}),
        (character_ngrams, {"ngram_range": (1, 3), "analyzer": "char"}),
    ],
)
def test_counts_are_those_of_scikit_learn_but_for_the_columns(ours: Callable[[list[str]], Any], options: dict) -> None:
    texts = [" ".join(each.split()) for each in TEXTS]
    expected = CountVectorizer(**options).fit_transform(texts)
    found = ours(TEXTS)
    assert found.sum() == expected.sum()
    np.testing.assert_array_equal((found @ found.T).toarray(), (expected @ expected.T).toarray())


def test_first_words_are_the_beginnings() -> None:
    found = first_words(["Why now, of all days", "Why now? Yes", "Why", "When"])
    shared = (found @ found.T).toarray()
    assert shared[0].tolist() == [3, 2, 1, 0] and shared[1, 2] == 1
    assert shared[2].tolist() == [1, 1, 1, 0]


def test_writers_stand_on_either_side() -> None:
    found = one_hot(["a", "b", "c"], ["b", "b", "a"])
    assert found.toarray().tolist() == [[1, -1, 0], [0, 0, 0], [-1, 0, 1]]


@pytest.mark.parametrize("fit", [fit_sparse, fit_logistic, fit_best_cue])
def test_the_second_reply_gets_the_opposite_margin(fit: Callable[[Any, np.ndarray], np.ndarray]) -> None:
    """Otherwise a model could prefer the first position."""
    rng = np.random.default_rng(0)
    rows = np.sign(rng.normal(0.3, 1, (300, 20)))
    both = np.concatenate([rows, -rows])
    margins = fit(small_indices(csr_array(both)) if fit is fit_sparse else both, np.arange(200))
    np.testing.assert_allclose(margins[:300], -margins[300:], atol=1e-9)
    assert (margins[200:300] > 0).mean() > 0.55


def test_logistic_regression_is_at_the_minimum_of_its_loss() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0.2, 1, (300, 4)) * [1, 10, 0.1, 1]
    scaled = rows / np.sqrt((rows**2).mean(0))

    def loss(weights: np.ndarray) -> float:
        return float(np.log1p(np.exp(-scaled @ weights)).sum() + 0.5 * weights @ weights)

    best = minimize(loss, np.zeros(4), tol=1e-10).x
    np.testing.assert_allclose(fit_logistic(rows, np.arange(300)), scaled @ best, atol=2e-3)
