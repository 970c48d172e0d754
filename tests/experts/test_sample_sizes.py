"""Tests of plans against published figures, exact enumeration and simulation."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binom
from statsmodels.stats.inter_rater import cohens_kappa

from psychocounsel.errors import UserError
from psychocounsel.experts.sample_sizes import (
    clean_cases,
    design_effect,
    failure_items,
    kappa_items,
    kappa_variance,
    noninferiority_items,
    plan_lines,
    score_power,
)
from psychocounsel.metrics.intervals import tango, upper_bound


def test_a_failure_rate_from_cases_without_failure() -> None:
    assert upper_bound(0, 60) == pytest.approx(0.0487, abs=5e-5)
    assert clean_cases(0.01) == 299 and upper_bound(0, 299) <= 0.01 < upper_bound(0, 298)
    assert upper_bound(5, 5) == 1.0


def test_cases_for_a_failure_rate_with_power() -> None:
    plan = failure_items(0.01, 0.002, 0.8)
    assert (plan.items, plan.allowed, plan.approximate) == (628, 2, False)
    assert upper_bound(2, 628) <= 0.01 < upper_bound(3, 628)
    assert plan.power == pytest.approx(binom.cdf(2, 628, 0.002)) and float(plan.power or 0) >= 0.8
    for cases in range(299, 628):  # no smaller number is enough
        allowed = max((k for k in range(4) if upper_bound(k, cases) <= 0.01), default=-1)
        assert binom.cdf(allowed, cases, 0.002) < 0.8
    with pytest.raises(UserError, match=r"plan.true_rate=0.02: must be below plan.ceiling=0.01"):
        failure_items(0.01, 0.02, 0.8)


@pytest.mark.parametrize(("margin", "normal"), [(0.10, 62), (0.05, 248), (0.02, 1546)])
def test_non_inferiority(margin: float, normal: int) -> None:
    approximate = noninferiority_items(margin, 0.1, 0.8, exact=False)
    assert (approximate.items, approximate.approximate) == (normal, True)
    plan = noninferiority_items(margin, 0.1, 0.8)
    assert plan.power is not None and plan.power >= 0.8 and not plan.approximate
    assert normal <= plan.items <= 1.25 * normal
    assert score_power(int(0.9 * plan.items), margin, 0.1) < 0.8


def test_the_score_test_keeps_its_level_and_has_the_power_of_a_simulation() -> None:
    rng, items, margin = np.random.default_rng(0), 263, 0.05
    for worse_less_better, expected in ((0.0, score_power(items, margin, 0.1)), (margin, 0.05)):
        shares = [(0.1 + worse_less_better) / 2, (0.1 - worse_less_better) / 2, 0.9]
        tables = rng.multinomial(items, shares, 20_000)
        shown = (tango(tables[:, 0], tables[:, 1], items, margin) < -1.6449).mean()
        assert shown == pytest.approx(expected, abs=0.012)


@pytest.mark.parametrize(("kappa", "prevalence"), [(0.7, 0.5), (0.4, 0.2), (0.0, 0.3)])
def test_the_variance_of_kappa_is_that_of_statsmodels(kappa: float, prevalence: float) -> None:
    shares = np.array([prevalence, 1 - prevalence])
    table = np.outer(shares, shares) + kappa * prevalence * (1 - prevalence) * np.array([[1, -1], [-1, 1]])
    known = cohens_kappa(table * 1000)
    assert kappa_variance(table) / 1000 == pytest.approx(known.var_kappa)
    plan = kappa_items(kappa, prevalence, 0.1)
    assert 1.96 * (kappa_variance(table) / plan.items) ** 0.5 == pytest.approx(0.1, abs=1e-3)


def test_items_of_one_speech_count_less() -> None:
    assert design_effect(3, 0.2) == pytest.approx(1.4)
    assert kappa_items(0.6, 0.5, 0.1, 1.4).items == pytest.approx(1.4 * kappa_items(0.6, 0.5, 0.1).items, abs=1)
    options = {
        "kind": "failures",
        "ceiling": 0.01,
        "true_rate": 0.002,
        "power": 0.8,
        "per_speech": 3,
        "correlation": 0.2,
    }
    first, _, fewest, _ = plan_lines(SimpleNamespace(**options))
    assert first.startswith("880 cases, worth 628 independent ones with at most 2 failures, show"), "1.4 x 628"
    assert fewest.startswith("  fewest cases: 419, all without failure"), "1.4 x 299"
    with pytest.raises(UserError, match="cannot agree so little"):
        kappa_items(-0.9, 0.1, 0.1)
    with pytest.raises(UserError, match="more than 200,000; choose a larger"):
        kappa_items(0.5, 0.5, 0.001)
    with pytest.raises(UserError, match="more than 200,000; choose a larger"):
        noninferiority_items(0.00005, 0.1, 0.8)


def test_a_plan_of_few_items_for_kappa_says_that_it_is_none() -> None:
    """Its variance is that of large samples, and 0 for perfect disagreement."""
    options = {"kind": "kappa", "prevalence": 0.5, "half_width": 0.1, "per_speech": 1, "correlation": 0}
    for kappa, few in ((-1.0, True), (0.99, True), (0.6, False)):
        lines = [*plan_lines(SimpleNamespace(**options, kappa=kappa))]
        assert any("take at least 30 items" in line for line in lines) is few
