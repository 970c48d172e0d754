"""Coefficients of agreement of a matrix of codes, each with an interval over resampled speeches.

Kappa (Cohen, weighted, Fleiss) comes from statsmodels, Krippendorff's alpha from krippendorff, Spearman's correlation from
scipy. Gwet's coefficients and ICC are computed here: irrCAC, the only library for the former, needs older versions of scipy
and pandas, and pingouin's ICC fits a model for each of a thousand resamples.
"""

import warnings
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from psychocounsel.experts.agreement.coding import ORDINAL, Codes
from psychocounsel.metrics.agreement import beyond_chance, gwet_chance
from psychocounsel.metrics.intervals import Measure, draws, mean_interval, measure

# Coefficients

Figures = dict[str, float]


def with_intervals(codes: Codes, samples: int, seed: int) -> dict[str, Measure]:
    """Return every coefficient with its interval over speeches: of raw agreement as a share, else by `samples` resamples."""
    figures = coefficients(codes.values, codes)
    resampled: dict[str, list[float]] = {name: [] for name in figures}
    clusters = int(codes.cluster.max()) + 1
    for drawn in draws(clusters, samples, seed):
        for times in drawn:
            rows = np.repeat(np.arange(len(codes.values)), times[codes.cluster])
            for name, value in coefficients(codes.values[rows], codes).items():
                resampled[name].append(value)
    measures = {name: measure(value, np.array(resampled[name]), clusters) for name, value in figures.items()}
    counts = category_counts(codes.values, len(codes.categories))
    for name, agreement in (("raw", np.eye(len(codes.categories))), ("weighted_raw", codes.agreement)):
        if samples and name in figures:
            by_unit, units = unit_agreements(counts, agreement)
            measures[name] = Measure(figures[name], *mean_interval(by_unit, codes.cluster[units], shares=True))
    return measures


def coefficients(values: np.ndarray, codes: Codes) -> Figures:
    """Return the coefficients of `values`, float[units, raters], by categories and weights of `codes`; NaN if undefined."""
    counts = category_counts(values, len(codes.categories))
    identity = np.eye(len(codes.categories))
    weighted = not np.array_equal(codes.agreement, identity)
    figures = {"raw": raw_agreement(counts, identity)}
    if weighted:
        figures["weighted_raw"] = raw_agreement(counts, codes.agreement)
    figures |= {
        "cohen": cohen(values, identity),
        "fleiss": fleiss(counts),
        "ac1": gwet(counts, identity),
        "alpha": krippendorff_alpha(counts, identity, "nominal"),
    }
    if weighted:
        figures["weighted_cohen"] = cohen(values, codes.agreement)
        figures["ac2"] = gwet(counts, codes.agreement)
        figures["weighted_alpha"] = krippendorff_alpha(counts, codes.agreement, codes.level)
    if codes.level == ORDINAL:
        scale = np.array(codes.categories, float)
        rated = np.where(np.isnan(values), np.nan, scale[np.nan_to_num(values).astype(int)])
        figures |= dict(zip(("icc_2_1", "icc_2_k"), icc(rated), strict=True))
        figures["spearman"] = spearman(rated)
    return figures


def category_counts(values: np.ndarray, categories: int) -> np.ndarray:
    """Return the number of raters by unit and category, int[units, q]."""
    return (values[:, :, None] == np.arange(categories)).sum(1)


def unit_agreements(counts: np.ndarray, agreement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the agreement within each of the n units that two raters or more have coded, and the numbers of these units.

    `counts`: int[units, q], raters by unit and category. `agreement`: float[q, q], the agreement of two categories. The
    agreement within a unit is the mean over its pairs of raters, float64[n]; the numbers are int64[n].
    """
    units = np.flatnonzero(counts.sum(1) >= 2)
    counts = counts[units]
    raters = counts.sum(1)
    pairs = (counts * (counts @ agreement)).sum(1) - raters  # without a rater's agreement with themselves
    return pairs / (raters * (raters - 1)), units


def raw_agreement(counts: np.ndarray, agreement: np.ndarray) -> float:
    """Return the mean agreement within a unit (`unit_agreements`); NaN if no unit has two raters."""
    by_unit, _ = unit_agreements(counts, agreement)
    return float(by_unit.mean()) if len(by_unit) else np.nan


def gwet(counts: np.ndarray, agreement: np.ndarray) -> float:
    """Return AC1 if `agreement` is the identity, otherwise AC2, also for units with missing raters (Gwet 2014, ch. 5)."""
    counts = counts[counts.sum(1) > 0]
    if len(agreement) < 2 or not len(counts):
        return np.nan
    shares = (counts / counts.sum(1, keepdims=True)).mean(0)
    chance = gwet_chance(shares[None], agreement)
    return float(beyond_chance(np.array([raw_agreement(counts, agreement)]), chance)[0])


def cohen(values: np.ndarray, agreement: np.ndarray) -> float:
    """Return Cohen's kappa, weighted by `agreement`: the mean over all pairs of raters that share units."""
    from statsmodels.stats.inter_rater import cohens_kappa

    categories, kappas = len(agreement), list[float]()
    for first, second in combinations(range(values.shape[1]), 2):
        both = values[~np.isnan(values[:, [first, second]]).any(1)][:, [first, second]].astype(int)
        table = np.bincount(both[:, 0] * categories + both[:, 1], minlength=categories**2)
        if not len(both):
            continue
        with np.errstate(invalid="ignore", divide="ignore"):
            kappa = cohens_kappa(table.reshape(categories, categories), weights=1 - agreement, return_results=False)
        if np.isfinite(kappa):
            kappas.append(float(kappa))
    return float(np.mean(kappas)) if kappas else np.nan


def fleiss(counts: np.ndarray) -> float:
    """Return Fleiss' kappa. It needs equal numbers of raters, so only units with the most frequent number (2 or more) count."""
    from statsmodels.stats.inter_rater import fleiss_kappa

    raters = counts.sum(1)
    if not (raters >= 2).any():
        return np.nan
    usual = np.bincount(raters[raters >= 2]).argmax()
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(fleiss_kappa(counts[raters == usual]))


def krippendorff_alpha(counts: np.ndarray, agreement: np.ndarray, level: str) -> float:
    """Return Krippendorff's alpha: ordinal, or nominal with distances 1 - `agreement`."""
    from krippendorff import alpha

    paired = counts[counts.sum(1) >= 2]
    if (paired.sum(0) > 0).sum() < 2:
        return np.nan

    def distance(v1, v2, i1, i2, n_v, dtype=np.float64):  # type: ignore[no-untyped-def]
        return (1 - agreement)[i1, i2].astype(dtype)

    metric: Any = "ordinal" if level == ORDINAL else distance
    return float(alpha(value_counts=paired, level_of_measurement=metric))


def icc(rated: np.ndarray) -> tuple[float, float]:
    """Return ICC(2,1) and ICC(2,k) of Shrout and Fleiss (1979), over the units that all raters rated."""
    rated = rated[~np.isnan(rated).any(1)]
    units, raters = rated.shape
    if units < 2 or raters < 2:
        return np.nan, np.nan
    grand = rated.mean()
    rows = raters * ((rated.mean(1) - grand) ** 2).sum() / (units - 1)
    columns = units * ((rated.mean(0) - grand) ** 2).sum() / (raters - 1)
    left = rated - rated.mean(1, keepdims=True) - rated.mean(0) + grand
    error = (left**2).sum() / ((units - 1) * (raters - 1))
    single = rows + (raters - 1) * error + raters * (columns - error) / units
    average = rows + (columns - error) / units
    return (
        float((rows - error) / single) if single > 0 else np.nan,
        float((rows - error) / average) if average > 0 else np.nan,
    )


def spearman(rated: np.ndarray) -> float:
    """Return Spearman's rank correlation: the mean over all pairs of raters that share 3 units or more."""
    from scipy.stats import spearmanr

    correlations = list[float]()
    for first, second in combinations(range(rated.shape[1]), 2):
        both = rated[~np.isnan(rated[:, [first, second]]).any(1)]
        if len(both) >= 3:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warns of a rater whose ratings are all equal
                rho = float(spearmanr(both[:, first], both[:, second]).statistic)
            if np.isfinite(rho):
                correlations.append(rho)
    return float(np.mean(correlations)) if correlations else np.nan


# Accuracy of raters and likely categories of items: Dawid and Skene (1979), by crowd-kit

_ITERATIONS = 100


@dataclass(frozen=True)
class Consensus:
    """Result of the model of rater errors.

    Attributes:
        accuracy: by rater, the probability of choosing the true category, averaged over categories by their frequency.
        likely: by unit, the number of the most probable category.
        probability: that category's probability.
    """

    accuracy: dict[str, Measure]
    likely: np.ndarray
    probability: np.ndarray


def consensus(codes: Codes, samples: int, seed: int) -> Consensus | None:
    """Fit the model to `codes`, with intervals over resampled speeches.

    The result is None with fewer than three raters or two categories. Two raters do not determine the model, because
    either may be the one who errs.
    """
    if (~np.isnan(codes.values).all(0)).sum() < 3 or len(codes.categories) < 2:
        return None
    accuracy, posterior = _fitted(codes.values, len(codes.categories))
    resampled, clusters = [], int(codes.cluster.max()) + 1
    for drawn in draws(clusters, samples, seed):
        for times in drawn:
            rows = np.repeat(np.arange(len(codes.values)), times[codes.cluster])
            resampled.append(_fitted(codes.values[rows], len(codes.categories))[0])
    columns = np.array(resampled).reshape(-1, len(codes.raters)).T
    accuracies = {
        rater: measure(float(value), column, clusters)
        for rater, value, column in zip(codes.raters, accuracy, columns, strict=True)
    }
    return Consensus(accuracies, posterior.argmax(1), posterior.max(1))


def _fitted(values: np.ndarray, categories: int) -> tuple[np.ndarray, np.ndarray]:
    """Return accuracies, float[raters], and the probability of each category, float[units, q]."""
    import pandas as pd
    from crowdkit.aggregation.classification.dawid_skene import DawidSkene

    units, raters = np.nonzero(~np.isnan(values))
    table = pd.DataFrame({"task": units, "worker": raters, "label": values[units, raters].astype(int)})
    model: Any = DawidSkene(n_iter=_ITERATIONS).fit(table)
    every = range(categories)
    posterior = model.probas_.reindex(index=range(len(values)), columns=every).fillna(0.0).to_numpy()
    prior = model.priors_.reindex(every).fillna(0.0).to_numpy()
    accuracy = np.full(values.shape[1], np.nan)
    for rater in np.unique(raters):
        errors = model.errors_.loc[rater].reindex(index=every, columns=every).fillna(0.0).to_numpy()
        accuracy[rater] = errors.diagonal() @ prior
    return accuracy, posterior
