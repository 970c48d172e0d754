"""Every printed interval holds at small n: the simulation of `benchmarks/coverage.py` and its table."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.coverage import FAMILIES, Family, coverage

TABLE = (Path(__file__).parents[2] / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
LEAST, ON_AVERAGE = 0.84, 0.90  # shares of truths; a coverage from 100 data sets has a standard error of 2 points


@pytest.mark.proof
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.simulate.__name__)
def test_intervals_hold_with_few_prompts_and_few_clusters(family: Family) -> None:
    for name, row in coverage([family]).items():
        assert min(row.values()) >= LEAST and np.mean([*row.values()]) >= ON_AVERAGE, (name, row)
        assert f"| {name} |" in TABLE, "the table is written again: python -m benchmarks.coverage"
