"""Figures of reward models against references, brute force and closed forms; flipped pairs."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from psychocounsel.evaluation.reward.figures import (
    accuracy_at,
    adaptive_ece,
    aurc,
    calibration_line,
    coverage_figures,
    flipped_figures,
    flipped_rows,
    logistic_fit,
    orientation,
    reliability,
    risk_coverage_curve,
    risks,
)
from psychocounsel.metrics.rewards import accuracy, ece
from tests.support.preferences import example, random_pairs, text

# Reliability bins, adaptive ECE and the calibration line, against scikit-learn, scipy and closed forms.

RNG = np.random.default_rng(0)
MARGINS = {
    "normal": RNG.normal(0.4, 1, 400),
    "ties": RNG.integers(-2, 5, 300) / 2,
    "boasting": RNG.normal(2, 30, 200),
    "all right": np.abs(RNG.normal(0, 1, 60)) + 0.01,
    "one": np.array([0.3]),
}
every_case = pytest.mark.parametrize("margins", MARGINS.values(), ids=MARGINS)


def both(margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Rounded as in `both_orders`, because a prediction may lie on the edge of its bin.
    return 0.5 * (1 + np.tanh(np.concatenate([margins, -margins]) / 2)), np.repeat([1, 0], len(margins))


@every_case
@pytest.mark.parametrize(("name", "strategy"), [("equal_width", "uniform"), ("equal_mass", "quantile")])
def test_bins_are_those_of_scikit_learns_calibration_curve(margins: np.ndarray, name: str, strategy: str) -> None:
    p, labels = both(margins)
    right, mean = calibration_curve(labels, p, n_bins=10, strategy=strategy)
    found = reliability(margins)[name]
    assert [each["right"] for each in found] == pytest.approx(right.tolist(), abs=1e-12)
    assert [each["mean_p"] for each in found] == pytest.approx(mean.tolist(), abs=1e-12)
    assert sum(each["n"] for each in found) == 2 * len(margins)
    assert all(each["from"] - 1e-12 <= each["mean_p"] <= each["to"] + 1e-12 for each in found)


@every_case
def test_both_calibration_errors_are_the_weighted_gaps_of_their_bins(margins: np.ndarray) -> None:
    found = reliability(margins)
    for name, error in (("equal_width", ece), ("equal_mass", adaptive_ece)):
        gaps = sum(each["n"] * abs(each["right"] - each["mean_p"]) for each in found[name]) / (2 * len(margins))
        assert error(margins) == pytest.approx(gaps, abs=1e-12)


def test_bins_of_equal_mass_hold_equally_many() -> None:
    assert {each["n"] for each in reliability(RNG.normal(0, 1, 500))["equal_mass"]} == {100}


# -- slope and intercept


def test_the_line_is_scikit_learns_logistic_regression_without_penalty() -> None:
    margins = RNG.normal(0.5, 2, 300)
    ids = [f"pair {number}" for number in range(300)]
    signs = orientation(ids)
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit((signs * margins)[:, None], signs > 0)
    found = calibration_line(ids, margins, np.arange(300))
    assert found["calibration_slope"] == pytest.approx(model.coef_[0, 0], rel=1e-5)
    assert found["calibration_intercept"] == pytest.approx(model.intercept_[0], abs=1e-5)


def test_two_values_of_the_margin_have_a_closed_form() -> None:
    """Odds of 3:1 at x = 1 and 1:3 at x = -1 give intercept 0, slope log 3, and a robust error computed by hand."""
    x = np.repeat([1.0, -1.0], 40)
    y = np.concatenate([np.repeat([1.0, 0.0], [30, 10]), np.repeat([0.0, 1.0], [30, 10])])
    fitted = logistic_fit(x, y, np.arange(80))
    assert fitted is not None
    coefficients, errors = fitted
    assert coefficients == pytest.approx([0, np.log(3)], abs=1e-8)
    # Each row: information p(1-p) = 3/16 and squared residual of mean 3/16, so bread x meat x bread = 16/(3 x 80).
    expected = np.sqrt(16 / (3 * 80) * (80 / 79) * (79 / 78))
    assert errors == pytest.approx([expected, expected], rel=1e-6)


def test_rows_of_one_cluster_count_as_one() -> None:
    x, uniform = RNG.normal(0, 1, 200), RNG.random(200)
    y = (uniform < expit(x)).astype(float)
    single, fourfold = (
        logistic_fit(x, y, np.arange(200)),
        logistic_fit(*(np.repeat(each, 4) for each in (x, y, np.arange(200)))),
    )
    assert single is not None and fourfold is not None
    assert fourfold[0] == pytest.approx(single[0], rel=1e-6)
    assert fourfold[1] == pytest.approx(single[1], rel=0.01), "the correction for few clusters differs a little"


@pytest.mark.parametrize(("factor", "slope"), [(1, 1.0), (4, 0.25), (0.5, 2.0)])
def test_the_slope_tells_by_how_much_margins_are_too_large(factor: float, slope: float) -> None:
    rng = np.random.default_rng(1)
    size = np.abs(rng.normal(0, 1.5, 20_000))
    margins = factor * np.where(rng.random(20_000) < expit(size), size, -size)
    found = calibration_line([str(number) for number in range(20_000)], margins, np.arange(20_000))
    assert found["calibration_slope"] == pytest.approx(slope, rel=0.1)
    assert found["calibration_slope_low"] < slope < found["calibration_slope_high"]
    assert found["calibration_intercept_low"] < 0 < found["calibration_intercept_high"]


def test_intervals_cover_the_true_slope_in_19_of_20_data_sets() -> None:
    """250 data sets have 60 clusters of 3 equal rows; intervals that ignore clusters would cover in about 3/4 of them."""
    rng, covered = np.random.default_rng(2), 0
    for _ in range(250):
        x = np.repeat(rng.normal(0, 1, 60), 3)
        y = np.repeat((rng.random(60) < expit(x[::3])).astype(float), 3)
        fitted = logistic_fit(x, y, np.repeat(np.arange(60), 3))
        assert fitted is not None
        covered += abs(fitted[0][1] - 1) < 1.96 * fitted[1][1]
    assert 0.90 <= covered / 250 <= 0.99


@pytest.mark.parametrize("margins", [np.full(20, 0.5), -np.full(20, 0.5), np.zeros(20), np.array([0.3])])
def test_there_is_no_line_where_no_slope_is_the_best(margins: np.ndarray) -> None:
    ids = [str(number) for number in range(len(margins))]
    assert calibration_line(ids, margins, np.arange(len(margins))) == {}


def test_the_order_of_a_pair_depends_on_its_id_alone_and_both_are_about_as_frequent() -> None:
    ids = [str(number) for number in range(4000)]
    assert orientation(ids)[::-1].tolist() == orientation(ids[::-1]).tolist()
    assert abs(orientation(ids).mean()) < 0.05


# Risk-coverage curves against brute force over orders, and closed forms.


@pytest.mark.parametrize("seed", range(4))
def test_risks_are_the_mean_over_all_orders_of_equal_margins(seed: int) -> None:
    margins = np.random.default_rng(seed).integers(-2, 3, 6) / 2.0
    found = []
    for order in permutations(margins.tolist()):
        if all(abs(first) >= abs(second) for first, second in pairwise(order)):
            wrong = [0.5 if margin == 0 else float(margin < 0) for margin in order]
            found.append([sum(wrong[:k]) / k for k in range(1, 7)])
    assert risks(margins).tolist() == pytest.approx(np.mean(found, axis=0).tolist())


def test_figures_by_hand() -> None:
    margins = np.array([3.0, -0.5, 2.0, 1.0, -1.5])  # by size: right, right, wrong, right, wrong
    assert risks(margins).tolist() == pytest.approx([0, 0, 1 / 3, 1 / 4, 2 / 5])
    assert aurc(margins) == pytest.approx((1 / 3 + 1 / 4 + 2 / 5) / 5)
    assert [accuracy_at(margins, share) for share in (0.2, 0.5, 0.8, 1)] == pytest.approx([1, 2 / 3, 3 / 4, 3 / 5])
    assert risk_coverage_curve(margins)[2] == {"coverage": 0.6, "accuracy": pytest.approx(2 / 3), "margin": 1.5}


def test_whole_coverage_is_plain_accuracy_and_the_scale_does_not_matter() -> None:
    margins = np.random.default_rng(5).normal(0.3, 1, 301)
    assert accuracy_at(margins, 1) == pytest.approx(accuracy(margins))
    curve = risk_coverage_curve(margins)
    assert len(curve) == 100 and curve[-1]["accuracy"] == pytest.approx(accuracy(margins))
    assert aurc(7 * margins) == aurc(margins)
    assert accuracy_at(np.ones(35), 0.8) == 1 and len(risk_coverage_curve(np.ones(3))) == 3


def test_a_scorer_that_knows_when_it_is_sure_has_a_lower_area_than_one_that_does_not() -> None:
    rng = np.random.default_rng(6)
    size = np.abs(rng.normal(0, 2, 5000))
    sure = np.where(rng.random(5000) < 1 / (1 + np.exp(-size)), size, -size)
    unsure = np.sign(sure) * rng.permutation(size)
    assert aurc(unsure) == pytest.approx(1 - accuracy(unsure), abs=0.02), "the curve is flat"
    assert aurc(sure) < 0.6 * aurc(unsure)


def test_intervals_are_by_cluster() -> None:
    margins = np.random.default_rng(7).normal(0.5, 1, 60)
    figures = coverage_figures(margins, np.arange(60).tolist(), samples=200)
    assert set(figures) == {
        f"{name}{end}"
        for name in ("aurc", "accuracy_at_50", "accuracy_at_80", "accuracy_at_90")
        for end in ("", "_low", "_high")
    }
    assert figures["accuracy_at_80_low"] < figures["accuracy_at_80"] < figures["accuracy_at_80_high"]
    same = coverage_figures(np.repeat(margins, 3), np.repeat(np.arange(60), 3).tolist(), samples=200)
    assert same["accuracy_at_50_low"] == pytest.approx(figures["accuracy_at_50_low"], abs=1e-9)


# Flipped pairs: a scorer that ignores the client wins half of them, a scorer that uses the speech wins more.

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
    assert found["flipped_accuracy"] == 0.5
    assert 0.4 < found["flipped_accuracy_low"] < 0.5 < found["flipped_accuracy_high"] < 0.6


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
    assert found["flipped_accuracy_low"] == pytest.approx(low, abs=0.02)
    assert found["flipped_accuracy_high"] == pytest.approx(high, abs=0.02)
