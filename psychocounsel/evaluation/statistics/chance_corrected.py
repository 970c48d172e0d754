"""Chance-corrected agreement of arrays of tables: the formulas of Cohen and Gwet for all resamples at once."""

import numpy as np


def beyond_chance(observed: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """The share of the agreement that chance leaves open which is reached; NaN where chance leaves none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)


def cohen_chance(tables: np.ndarray) -> np.ndarray:
    """Chance agreement of Cohen (1960), float[s], from shares of label pairs, float[s, q, q]."""
    return (tables.sum(2) * tables.sum(1)).sum(1)


def gwet_chance(shares: np.ndarray, agreement: np.ndarray) -> np.ndarray:
    """Chance agreement of AC1 and AC2 (Gwet 2008), float[s].

    Args:
        shares: share of each category among all ratings, float[s, q].
        agreement: how far two categories agree, from 0 to 1, float[q, q]; the identity gives AC1.
    """
    categories = len(agreement)
    return agreement.sum() * (shares * (1 - shares)).sum(1) / (categories * (categories - 1))
