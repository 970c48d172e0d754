"""Sample sizes for an interval of kappa, a failure rate and non-inferiority. Items of one speech count as a cluster."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from psychocounsel.errors import UserError
from psychocounsel.metrics.intervals import LEVEL, TWO_SIDED_LEVEL, tango, upper_bound
from psychocounsel.storage.files import with_noun

# Sizes

_MOST = 200_000  # items: a plan that needs more is refused
_LARGE = 30  # items: below, the large-sample variance of kappa says nothing


@dataclass(frozen=True)
class Plan:
    """The size of a study.

    Attributes:
        items: number of items or cases.
        allowed: most failures among them with which the claim still holds; None if the plan does not count failures.
        power: probability of showing the claim if the assumptions hold; None for an interval.
        approximate: True if `items` comes from a normal approximation.
        method: the formula or test, with its source.
    """

    items: int
    allowed: int | None
    power: float | None
    approximate: bool
    method: str


def kappa_items(kappa: float, prevalence: float, half_width: float, clustering: float = 1.0) -> Plan:
    """Plan the items for a 95 % interval of `half_width` to either side of Cohen's kappa of two raters.

    `prevalence` is the share of one of two categories, equal for both raters. The large-sample variance is that of Fleiss,
    Cohen and Everitt (1969). `clustering` is the design effect (see `design_effect`).

    Raises:
        UserError: if no table of two raters has this kappa, or if more than 200,000 items are needed.
    """
    from scipy.stats import norm

    sides = np.array([prevalence, 1 - prevalence])
    table = np.outer(sides, sides) + kappa * prevalence * (1 - prevalence) * np.array([[1, -1], [-1, 1]])
    if (table < 0).any():
        raise UserError(f"plan.kappa={kappa:g}: two raters with plan.prevalence={prevalence:g} cannot agree so little")
    variance = kappa_variance(table)
    needed = (norm.ppf((1 + TWO_SIDED_LEVEL) / 2) / half_width) ** 2 * variance * clustering
    return Plan(_whole(needed), None, None, True, "large-sample variance of kappa (Fleiss, Cohen and Everitt 1969)")


def kappa_variance(table: np.ndarray) -> float:
    """Return n times the large-sample variance of kappa from shares of label pairs, float[q, q] (Fleiss et al. 1969)."""
    rows, columns = table.sum(1), table.sum(0)
    observed, chance = float(np.trace(table)), float(rows @ columns)
    kappa = (observed - chance) / (1 - chance)
    sums = rows[None, :] + columns[:, None]  # of cell (i, j): share of column i plus share of row j
    same = (np.diag(table) * (1 - np.diag(sums) * (1 - kappa)) ** 2).sum()
    other = (1 - kappa) ** 2 * ((table * sums**2).sum() - (np.diag(table) * np.diag(sums) ** 2).sum())
    return float((same + other - (kappa - chance * (1 - kappa)) ** 2) / (1 - chance) ** 2)


def clean_cases(ceiling: float) -> int:
    """Return the number of cases that, all without failure, give an upper bound of at most `ceiling`."""
    return math.ceil(math.log(1 - LEVEL) / math.log1p(-ceiling))


def failure_items(ceiling: float, true_rate: float, power: float) -> Plan:
    """Plan the fewest independent cases that show a rate to be at most `ceiling` with probability `power`, if it is `true_rate`.

    The claim is shown if the exact one-sided 95 % upper bound is at most `ceiling`.

    Raises:
        UserError: if `true_rate` is not below `ceiling`, or if more than 200,000 cases are needed.
    """
    from scipy.stats import binom

    if not 0 <= true_rate < ceiling:
        raise UserError(f"plan.true_rate={true_rate:g}: must be below plan.ceiling={ceiling:g}")
    for first in range(clean_cases(ceiling), _MOST, 4096):
        cases = np.arange(first, min(first + 4096, _MOST))
        allowed = _most_failures(cases, ceiling)
        reached = binom.cdf(allowed, cases, true_rate)
        if (enough := np.flatnonzero(reached >= power)).size:
            place = int(enough[0])
            method = "exact one-sided bound (Clopper and Pearson 1934)"
            return Plan(int(cases[place]), int(allowed[place]), float(reached[place]), False, method)
    raise UserError(f"plan.ceiling={ceiling:g} with plan.true_rate={true_rate:g} needs more than {_MOST:,} cases")


def _most_failures(cases: np.ndarray, ceiling: float) -> np.ndarray:
    """Return the most failures allowed for each number of cases, int[n], so that the upper bound is <= `ceiling`; -1: none."""
    from scipy.stats import binom

    # The smallest count with a cumulative probability of 5 % or more.
    allowed = binom.ppf(1 - LEVEL, cases, ceiling).astype(int)
    return np.where(binom.cdf(allowed, cases, ceiling) <= 1 - LEVEL, allowed, allowed - 1)


def noninferiority_items(
    margin: float, discordant: float, power: float, exact: bool = True, clustering: float = 1.0
) -> Plan:
    """Plan the paired cases that show non-inferiority within `margin`, if both systems are equally good.

    `discordant` is the share of cases on which they differ. The normal approximation is (z + z')^2 discordant / margin^2.
    With `exact`, numbers are tried in steps of about 0.5 % until the one-sided score test of Tango (1998) at 5 %
    reaches the power, computed over all tables.

    Raises:
        UserError: if more than 200,000 cases are needed.
    """
    from scipy.stats import norm

    normal = (norm.ppf(LEVEL) + norm.ppf(power)) ** 2 * discordant / margin**2
    approximation = _whole(normal * clustering)  # refuses a plan that is too large before its power takes hours
    if not exact:
        return Plan(approximation, None, power, True, "normal approximation of paired shares")
    items = max(8, math.floor(0.7 * normal))
    while (reached := score_power(items, margin, discordant)) < power:
        items += max(1, items // 200)
    method = "score test of paired shares (Tango 1998), power over all tables"
    return Plan(_whole(items * clustering), None, reached, clustering > 1, method)


def score_power(items: int, margin: float, discordant: float) -> float:
    """Return the power of Tango's score test for `margin` if there is no difference."""
    from scipy.stats import binom, norm

    differ = np.arange(items + 1)
    weight = binom.pmf(differ, items, discordant)
    kept = differ[weight > 1e-12]
    power = 0.0
    for count in kept:
        worse = np.arange(count + 1)
        passes = tango(worse, count - worse, items, margin) < -norm.ppf(LEVEL)
        power += weight[count] * binom.pmf(worse, count, 0.5)[passes].sum()
    return float(power)


def design_effect(per_speech: float, correlation: float) -> float:
    """Return the design effect, the factor by which correlated items of one speech raise the number needed (Kish 1965)."""
    return 1 + (per_speech - 1) * correlation


def _whole(needed: float) -> int:
    if needed > _MOST:
        raise UserError(
            f"the plan needs {needed:,.0f} items, more than {_MOST:,}; choose a larger margin, ceiling or interval"
        )
    return math.ceil(round(needed, 6))


# Plans as lines of text: the number needed, its assumptions and the method


def plan_lines(options: Any) -> Iterator[str]:
    """Yield the lines of the plan `plan.kind`, from the section `plan` of the configuration."""
    effect = design_effect(options.per_speech, options.correlation)
    lines_of = {"kappa": _kappa, "failures": _failures, "noninferiority": _noninferiority}[options.kind]
    yield from lines_of(options, effect)
    if effect > 1:
        yield (
            f"  included: {options.per_speech:g} items per speech with correlation {options.correlation:g}, a design effect of "
            f"{effect:.2f}"
        )


def _kappa(options: Any, effect: float) -> Iterator[str]:
    plan = kappa_items(options.kappa, options.prevalence, options.half_width, effect)
    items = with_noun(plan.items, "item gives", "items give")
    yield f"{items} kappa {options.kappa:g} a 95 % interval of +-{options.half_width:g}"
    yield f"  if one category has a share of {options.prevalence:g}; {_method(plan)}"
    if plan.items < _LARGE:
        yield f"  the approximation holds for large samples only: take at least {_LARGE} items"


def _failures(options: Any, effect: float) -> Iterator[str]:
    plan, clean = failure_items(options.ceiling, options.true_rate, options.power), clean_cases(options.ceiling)
    claim = f"show a failure rate of at most {options.ceiling:.3g} (one-sided 95 %)"
    if effect > 1:  # the exact bound holds for independent cases alone
        worth = f"{_whole(plan.items * effect):,} cases, worth {plan.items:,} independent ones"
        yield f"{worth} with at most {with_noun(plan.allowed or 0, 'failure')}, {claim}"
    else:
        yield f"{with_noun(plan.items, 'case')} with at most {with_noun(plan.allowed or 0, 'failure')} {claim}"
    yield f"  with probability {plan.power:.2f} if the true rate is {options.true_rate:g}; {_method(plan)}"
    bound = upper_bound(0, clean)
    yield f"  fewest cases: {_whole(clean * effect):,}, all without failure (upper bound of the rate: {bound:.4f})"


def _noninferiority(options: Any, effect: float) -> Iterator[str]:
    exact = noninferiority_items(options.margin, options.discordant, options.power, True, effect)
    normal = noninferiority_items(options.margin, options.discordant, options.power, False, effect)
    yield f"{exact.items:,} paired cases show non-inferiority within {options.margin:g} (one-sided 95 %)"
    yield (
        f"  with probability {exact.power:.2f} if both are equally good and differ on a share {options.discordant:g} of the "
        f"cases; {_method(exact)}"
    )
    yield f"  approximate number: {normal.items:,} ({normal.method})"


def _method(plan: Plan) -> str:
    return f"{'approximate: ' if plan.approximate else ''}{plan.method}"
