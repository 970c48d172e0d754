"""Tests of the model of rater errors on raters with planted errors."""

import numpy as np
import pytest

from psychocounsel.experts.agreement.answers_table import ExpertAnswer
from psychocounsel.experts.agreement.coding import CountingRules, choice_codes
from psychocounsel.experts.agreement.rater_errors import consensus

ACCURACY = {"e1": 0.95, "e2": 0.85, "e3": 0.75, "e4": 0.6}


def planted(items: int, accuracy: dict[str, float], seed: int) -> tuple[list[ExpertAnswer], np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, items)
    answers = []
    for rater, right in accuracy.items():
        said = np.where(rng.random(items) < right, truth, 1 - truth)
        answers += [
            ExpertAnswer(f"i{item:04}", f"s{item // 2}", rater, ("left", "right")[said[item]]) for item in range(items)
        ]
    return answers, truth


@pytest.mark.slow
def test_planted_errors_are_found_within_their_intervals() -> None:
    answers, truth = planted(800, ACCURACY, 1)
    codes = choice_codes(answers, CountingRules())
    assert codes is not None
    found = consensus(codes, 60, 1)
    assert found is not None
    for rater, right in ACCURACY.items():
        measured = found.accuracy[rater]
        assert measured.low - 0.01 <= right <= measured.high + 0.01 and measured.high - measured.low < 0.15
    majority = (np.nanmean(codes.values[:, :3], 1) > 0.5).astype(int)
    assert (found.likely == truth).mean() > max(0.94, (majority == truth).mean())


def test_two_raters_do_not_determine_who_errs() -> None:
    answers, _ = planted(50, {"e1": 0.9, "e2": 0.8}, 2)
    codes = choice_codes(answers, CountingRules())
    assert codes is not None and consensus(codes, 10, 1) is None
