"""Chance-corrected agreement by the formulas of Cohen and Gwet, computed for all resamples at once."""

import numpy as np


def beyond_chance(observed: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Return chance-corrected agreement, (observed - chance) / (1 - chance); NaN where chance agreement is 1."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)


def cohen_chance(tables: np.ndarray) -> np.ndarray:
    """Return the chance agreement of Cohen (1960), float[s], from the shares of label pairs, float[s, q, q]."""
    return (tables.sum(2) * tables.sum(1)).sum(1)


def gwet_chance(shares: np.ndarray, agreement: np.ndarray) -> np.ndarray:
    """Return the chance agreement of AC1 or AC2 (Gwet 2008), float[s].

    Args:
        shares: share of each category among all ratings, float[s, q].
        agreement: agreement of each two categories, from 0 to 1, float[q, q]. The identity matrix gives AC1.
    """
    categories = len(agreement)
    return agreement.sum() * (shares * (1 - shares)).sum(1) / (categories * (categories - 1))
