"""Weights that balance cues: against scipy's solver, a linear program for feasibility, and a formula for one cue."""

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from psychocounsel.data.balance.calibration import balanced_weights, effective_size


def random_signs(seed: int, pairs: int, cues: int) -> np.ndarray:
    """Return signs of correlated cues that are right far more often than wrong."""
    rng = np.random.default_rng(seed)
    shared = rng.random((pairs, 1)) < 0.5
    return np.where(shared & (rng.random((pairs, cues)) < 0.6), 1, rng.choice([-1, 0, 1], (pairs, cues)))


def by_scipy(signs: np.ndarray, largest: float) -> np.ndarray:
    count = len(signs)
    constraints = [
        {"type": "eq", "fun": lambda w: w.mean() - 1, "jac": lambda w: np.full(count, 1 / count)},
        {"type": "eq", "fun": lambda w: signs.T @ w / count, "jac": lambda w: signs.T / count},
    ]
    options = {"maxiter": 500, "ftol": 1e-13}
    found = minimize(
        lambda w: ((w - 1) ** 2).mean(),
        np.ones(count),
        jac=lambda w: 2 * (w - 1) / count,
        bounds=[(0, largest)] * count,
        constraints=constraints,
        options=options,
        method="SLSQP",
    )
    assert found.success
    return found.x


@pytest.mark.parametrize(
    ("seed", "cues", "largest"), [(0, 1, 20.0), (1, 2, 20.0), (2, 3, 20.0), (3, 4, 3.0), (4, 2, 2.2)]
)
def test_the_weights_are_those_of_a_general_solver(seed: int, cues: int, largest: float) -> None:
    signs = random_signs(seed, 60, cues)
    weights = balanced_weights(signs, largest)
    assert weights is not None
    np.testing.assert_allclose(weights, by_scipy(signs, largest), atol=2e-4)
    assert weights.mean() == pytest.approx(1, abs=1e-6) and weights.min() >= 0 and weights.max() <= largest
    np.testing.assert_allclose(signs.T @ weights / len(weights), 0, atol=1e-6)


def test_one_cue_without_ties_has_half_the_weight_on_either_side() -> None:
    signs = np.array([[1]] * 89 + [[-1]] * 11)
    weights = balanced_weights(signs, 20.0)
    assert weights is not None
    np.testing.assert_allclose(weights, np.where(signs[:, 0] > 0, 0.5 / 0.89, 0.5 / 0.11), atol=1e-6)
    assert effective_size(weights) == pytest.approx(100 / (0.25 / 0.89 + 0.25 / 0.11), rel=1e-5)


def test_weights_exist_exactly_where_a_linear_program_finds_some() -> None:
    both = {True: 0, False: 0}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        signs = np.where(rng.random((25, 3)) < 0.75, 1, rng.choice([-1, 0], (25, 3)))
        largest = float(rng.uniform(1.2, 5))
        equal = np.vstack([np.ones(25), signs.T]) / 25
        exists = linprog(np.zeros(25), A_eq=equal, b_eq=[1, 0, 0, 0], bounds=(0, largest)).status == 0
        assert (balanced_weights(signs, largest) is not None) is exists, seed
        both[exists] += 1
    assert min(both.values()) > 5


def test_balanced_and_repeated_cues_change_nothing() -> None:
    even = np.array([[1, 1], [-1, -1], [0, 0]] * 7)
    assert (balanced_weights(even, 20.0) == 1).all()
    once, twice = (balanced_weights(random_signs(5, 80, 1)[:, columns], 20.0) for columns in ([0], [0, 0]))
    assert once is not None and twice is not None
    np.testing.assert_allclose(once, twice, atol=2e-6)
