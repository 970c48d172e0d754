"""Comparison of the best setting with the others: Welch's t test over seeds, with Holm's correction."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from psychocounsel.reporting.sections.comparing.families import Family
from psychocounsel.reporting.sections.comparing.setting_groups import RunSetting

LEVEL = 0.95


@dataclass(frozen=True)
class Comparison:
    """The best setting compared with another.

    Attributes:
        difference: mean of the best setting minus mean of the other.
        low, high: the difference's 95 % interval (Welch); None if a setting has a single run, or if both have no spread.
        p: p-value of the test, corrected by Holm over all comparisons of the family; None in the same cases.
    """

    other: RunSetting
    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def is_beaten(self) -> bool:
        return self.p is not None and self.p < 1 - LEVEL


def comparisons(family: Family) -> list[Comparison]:
    """Compare the first setting of the family with every other."""
    best, *others = family.settings
    raw = [_welch(family.values(best), family.values(other), other) for other in others]
    adjusted = iter(holm([each.p for each in raw if each.p is not None]))
    return [
        each if each.p is None else Comparison(each.other, each.difference, each.low, each.high, next(adjusted))
        for each in raw
    ]


def holm(values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values: the k-th smallest of n times n - k + 1, at most 1, never below the previous."""
    order, found, largest = sorted(range(len(values)), key=lambda place: values[place]), [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        found[place] = largest
    return found


def _welch(best: Sequence[float], other: Sequence[float], setting: RunSetting) -> Comparison:
    difference = fmean(best) - fmean(other)
    if min(len(best), len(other)) < 2 or len({*best}) == len({*other}) == 1:
        return Comparison(setting, difference)
    from scipy.stats import ttest_ind  # a second to import

    found = ttest_ind(best, other, equal_var=False)
    interval = found.confidence_interval(LEVEL)
    if not all(map(math.isfinite, (found.pvalue, interval.low, interval.high))):
        return Comparison(setting, difference)
    return Comparison(setting, difference, float(interval.low), float(interval.high), float(found.pvalue))
