"""Estimate of each rater's accuracy and each item's likely category: Dawid and Skene (1979), by crowd-kit."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from psychocounsel.evaluation.statistics.measure import Measure, draws, measure
from psychocounsel.experts.agreement.coding import Codes

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
    resampled = []
    for drawn in draws(int(codes.cluster.max()) + 1, samples, seed):
        for times in drawn:
            rows = np.repeat(np.arange(len(codes.values)), times[codes.cluster])
            resampled.append(_fitted(codes.values[rows], len(codes.categories))[0])
    columns = np.array(resampled).reshape(-1, len(codes.raters)).T
    found = {
        rater: measure(float(value), column)
        for rater, value, column in zip(codes.raters, accuracy, columns, strict=True)
    }
    return Consensus(found, posterior.argmax(1), posterior.max(1))


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
