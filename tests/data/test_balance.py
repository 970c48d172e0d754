"""`data.balance` from texts to groups: weighted cues predict nothing, the cost is reported, impossible cases are errors."""

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from psychocounsel.counsel.cues import CUES
from psychocounsel.data.balance import balanced_weights, effective_size, weigh_pairs
from psychocounsel.data.dataset import Dataset, build_dataset
from psychocounsel.data.group import Completion, Group
from psychocounsel.errors import UserError
from psychocounsel.model.tokenizer import load_chat_format
from tests.support.composed import check, compose
from tests.support.preferences import FIRST_SAMPLE

# `data.balance` from texts to groups: weighted cues predict nothing, the cost is reported, impossible cases are
# errors.


def pair(chosen: str, rejected: str) -> Group:
    return Group("a", np.ones(1, np.int32), [Completion(np.ones(1, np.int32), text) for text in (chosen, rejected)])


def weighted_accuracy(groups: list[Group], cue: str) -> float:
    """Return the weighted accuracy of a cue by a loop over pairs; a tie counts half."""
    right = whole = 0.0
    for group in groups:
        chosen, rejected = (CUES[cue](reply.text) for reply in group.completions)
        right += group.weight * (1.0 if chosen > rejected else 0.5 if chosen == rejected else 0.0)
        whole += group.weight
    return right / whole


def built(*overrides: str) -> tuple[Dataset, list[str]]:
    data = ["data=local", f"data.path={FIRST_SAMPLE}", "data.min_gap=1", "data.dev_fraction=0.2"]
    config, said = check(compose(["algo=reward", *data, *overrides])), list[str]()
    return build_dataset(config, load_chat_format(config.model)[1], "pairs", said.append), said


def test_cues_tell_nothing_of_the_first_samples_weighted_pairs() -> None:
    plain, _ = built()
    found, said = built("data.balance=[length,ending]")
    assert weighted_accuracy(plain.train, "ending") > 0.8, "otherwise there would be nothing to balance"
    for cue in ("length", "ending"):
        assert weighted_accuracy(found.train, cue) == pytest.approx(0.5, abs=1e-5)
        assert f"{cue} {weighted_accuracy(plain.train, cue):.1%} -> 50.0%" in said[-1]
    weights = np.array([group.weight for group in found.train])
    assert weights.mean() == pytest.approx(1, abs=1e-5)
    size = weights.sum() ** 2 / (weights**2).sum()
    assert f"{len(weights)} pairs have weights from {weights.min():.2f} to {weights.max():.2f}" in said[-2]
    assert f"effective sample size: {size:.0f}" in said[-2]
    assert {group.weight for group in found.held_out} == {1.0}
    assert [group.id for group in found.train] == [group.id for group in plain.train]


def test_the_fingerprint_tells_weights_and_stays_without_them() -> None:
    prints = [built(*given)[0].fingerprint() for given in ([], ["data.balance=[length]"], ["data.balance=[ending]"])]
    assert len(set(prints)) == 3
    assert built("data.balance=[]")[0].fingerprint() == prints[0]
    assert built("data.balance=[length]")[0].fingerprint() == prints[1]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([pair("Why?", "No.")] * 3, "the chosen reply has more of ending in all of the 3 pairs that differ in it"),
        ([pair("No.", "Why?"), pair("One.", "Two.")], "the rejected reply has more of ending in all of the 1 pairs"),
        ([pair("Yes.", "No.")] * 3, "ending is equal in both replies of every pair: leave ending out"),
        (
            [pair("Why?", "No.")] * 99 + [pair("No.", "Why?")],
            "weights of at most 20 times the mean balance ending alone",
        ),
    ],
)
def test_what_cannot_be_balanced_is_refused(groups: list[Group], message: str) -> None:
    with pytest.raises(UserError, match=message):
        weigh_pairs(groups, ["ending"], lambda line: None)


def test_cues_that_cannot_be_balanced_together_are_refused_together() -> None:
    """Each cue is wrong in one pair, in which both others are right, so a larger weight for it harms the others."""
    cues = ["ending", "exclamations", "commas"]
    groups = [pair("Oh, no!", "Why?"), pair("So, why?", "No!"), pair("No! Why?", "Well, yes.")]
    for cue in cues:
        weigh_pairs(groups, [cue], lambda line: None)
    with pytest.raises(UserError, match="no weights of at most 20 times the mean balance all of these cues together"):
        weigh_pairs(groups, cues, lambda line: None)


# Weights that balance cues: against scipy's solver, a linear program for feasibility, and a formula for one cue.


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
