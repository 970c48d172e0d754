"""Slices, comparisons and baselines of reward models, against brute force and by the whole command on a few pairs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from psychocounsel.data.rows import Example
from psychocounsel.data.shared_text import components_of
from psychocounsel.errors import UserError
from psychocounsel.evaluation.audit.blind import wins
from psychocounsel.evaluation.reward.comparison import baseline_figures, ground_of, side_by_side
from psychocounsel.evaluation.reward.figures import pair_slices
from psychocounsel.metrics.rewards import accuracy, brier
from tests.support.harness import cli, write_jsonl
from tests.support.preferences import random_pairs


def pair(number: int, said: str, chosen: str, rejected: str, **more: Any) -> Example:
    return Example(str(number), f"row {number}", [{"role": "user", "content": said}], [chosen, rejected], **more)


# -- slices

PAIRS = [
    pair(0, "I want to kill myself.", "a" * 30, "b" * 10, topic="grief", scores=[4.0, 3.6]),
    pair(1, "My exam is on Monday.", "c" * 10, "d" * 30, topic="work", scores=[4.0, 3.5]),
    pair(2, "My exam is on Tuesday.", "e" * 100, "f" * 109, topic="work", scores=[4.0, 2.0]),
    pair(3, "Nothing much.", "g" * 90, "h" * 101, topic="work", scores=[5.0, 1.0], risk="self_harm"),
    pair(4, "I want to die.", "i" * 10, "j" * 10, topic="grief", scores=[3.0, 2.0], risk="none"),
]
MARGINS = np.array([1.0, -1.0, 0.0, 2.0, 3.0])


def test_slices_are_the_pairs_that_they_name() -> None:
    found = pair_slices(PAIRS, MARGINS, np.arange(5), [1, 5])
    shares = {
        kind: {name: (row["pairs"], row["accuracy"]) for name, row in each["slices"].items()}
        for kind, each in found.items()
    }
    assert shares["topic"] == {"work": (3, pytest.approx(0.5)), "grief": (2, 1.0)}
    assert shares["crisis"] == {"no": (3, pytest.approx(0.5)), "yes": (2, 1.0)}, "a column goes before the cues"
    assert found["crisis"]["by"] == {"rules": 3, "column": 2} and found["topic"]["by"] == {"column": 5}
    assert shares["risk"]["self_harm"] == (1, 1.0)
    assert shares["gap"] == {
        "2 or more": (2, 0.75),
        "0.5 to 1": (1, 0.0),
        "1 to 2": (1, 1.0),
        "under 0.5": (1, 1.0),
    }
    assert shares["length"] == {
        "about equal": (2, 0.75),
        "chosen is shorter": (2, 0.5),
        "chosen is longer": (1, 1.0),
    }
    assert all(row["few"] for each in found.values() for row in each["slices"].values())


def test_gaps_are_shares_of_the_rating_range_and_need_ratings() -> None:
    assert set(pair_slices(PAIRS, MARGINS, np.arange(5), [0, 100])["gap"]["slices"]) == {"under 12.5"}
    PAIRS_WITHOUT = [*PAIRS[:4], pair(5, "Hm.", "a", "b")]
    assert "gap" not in pair_slices(PAIRS_WITHOUT, MARGINS, np.arange(5), [1, 5])


def test_a_slice_that_is_all_right_has_the_exact_binomial_interval_of_its_components() -> None:
    rows = [pair(number, f"{number}", "a" * 9, "b", topic="t") for number in range(60)]
    found = pair_slices(rows, np.ones(60), np.arange(60) // 2, [1, 5])["topic"]["slices"]["t"]
    expected = binomtest(30, 30).proportion_ci(method="exact")
    assert (found["low"], found["high"]) == pytest.approx((expected.low, 1.0))
    assert (found["pairs"], found["components"], found["few"]) == (60, 30, False)


# -- side by side


def test_differences_are_paired_and_on_pairs_that_all_models_read() -> None:
    rows, rng = random_pairs(80, seed=3), np.random.default_rng(3)
    component = components_of(rows)
    one = rng.normal(0.5, 1, 80)
    two = one + rng.normal(0.1, 0.2, 80)
    one[7] = two[11] = np.nan
    found = side_by_side(rows, {"one": one, "two": two}, component)
    kept = np.setdiff1d(np.arange(80), [7, 11])
    assert (found["pairs"], found["left_out"]) == (78, 2)
    first, second = found["models"]["one"], found["models"]["two"]
    assert first["accuracy"] == accuracy(one[kept]) and "differences" not in first
    assert second["brier"] == brier(two[kept])
    difference = second["differences"]["brier"]
    assert difference["value"] == pytest.approx(second["brier"] - first["brier"])
    groups = [np.flatnonzero(component[kept] == each) for each in np.unique(component[kept])]
    draws = []
    for _ in range(2000):
        drawn = np.concatenate([groups[each] for each in rng.integers(0, len(groups), len(groups))])
        draws.append(brier(two[kept][drawn]) - brier(one[kept][drawn]))
    low, high = np.quantile(draws, [0.025, 0.975])
    width = high - low
    assert (difference["low"], difference["high"]) == pytest.approx((low, high), abs=0.15 * width)
    assert width < 0.6 * (first["brier_high"] - first["brier_low"]), "pairing makes it narrower"
    third = np.where(np.arange(80) < 60, 1.0, -1.0)
    several = side_by_side(rows, {"one": one, "two": two, "three": third}, component)["models"]
    p = [several[name]["differences"]["accuracy"] for name in ("two", "three")]
    raw, adjusted = [each["p"] for each in p], [each["p_adjusted"] for each in p]
    assert adjusted[int(np.argmin(raw))] == pytest.approx(min(1, 2 * min(raw))), "Holm over two comparisons"
    with pytest.raises(UserError, match="no pair is short enough"):
        side_by_side(rows, {"one": np.full(80, np.nan), "two": two}, component)


def test_a_difference_in_accuracy_is_tested_as_by_mcnemar() -> None:
    """The models differ on 9 pairs, and the second is right on 8: the sign-flip test equals the exact binomial test."""
    first = np.ones(40)
    first[:8] = -1
    second = np.ones(40)
    second[8] = -1
    found = side_by_side(random_pairs(40, seed=8), {"one": first, "two": second}, np.arange(40))
    tested = found["models"]["two"]["differences"]["accuracy"]
    assert tested["value"] == pytest.approx(7 / 40)
    assert tested["p"] == tested["p_adjusted"] == pytest.approx(binomtest(8, 9).pvalue)
    few = side_by_side(random_pairs(3, seed=8), {"one": -np.ones(3), "two": np.ones(3)}, np.arange(3))
    assert few["models"]["two"]["differences"]["accuracy"]["low"] < 0, "three pairs prove no difference"


# -- the audit's baselines


def test_blind_baselines_find_a_planted_cue_and_noise_has_none() -> None:
    rows = random_pairs(60, seed=5)
    planted = [pair(n, row.prompt[0]["content"], row.replies[0] + " ok?", row.replies[1]) for n, row in enumerate(rows)]
    found = [baseline_figures(ground) for each in (planted, rows) if (ground := ground_of(each, None, print))]
    assert found[0]["blind"]["best_cue"]["accuracy"] == 1.0
    assert found[1]["blind"]["best_cue"]["low"] < 0.5 + 0.1 and found[1]["blind"]["words"]["low"] < 0.6
    assert -0.2 < found[1]["overlap"]["gains"]["swapped"]["gain"] < 0.2


def test_many_pairs_have_baselines_only_if_asked_and_few_clients_none() -> None:
    said: list[str] = []
    many = random_pairs(1001, seed=6)
    assert ground_of(many, None, said.append) is None and "evaluation.baselines=true" in said[0]
    assert ground_of(many, True, said.append) is not None
    assert ground_of(many[:50], False, said.append) is None and len(said) == 1
    assert ground_of(many[:4], None, said.append) is None
    with pytest.raises(UserError, match="evaluation.baselines=true: the pairs form 4 components"):
        ground_of(many[:4], True, said.append)


# -- the command


@pytest.mark.slow
def test_the_command_compares_models_and_shows_baselines(tmp_path: Path) -> None:
    """The shipped model twice gives two rows with different names, equal columns and differences of 0."""
    rows = [
        {
            "id": f"p{n}",
            "prompt": f"Day {n}: I can't sleep.",
            "chosen": f"What keeps you awake {n}?",
            "rejected": "Relax." * (n % 3 + 1) + str(n),
        }
        for n in range(12)
    ]
    data = [f"data.path={write_jsonl(tmp_path / 'pairs.jsonl', rows)}", "part=all"]
    compare = "compare=[tiny,{use: tiny, name: cut, max_length: 24}]"
    cli("evaluate", "reward=tiny", *data, compare, "run_dir=out", "cluster.threads=1", cwd=tmp_path)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    models = summary["compare"]["models"]
    assert list(models) == ["tiny", "tiny-2", "cut"]
    assert models["tiny-2"]["differences"]["brier"] == {"value": 0, "low": 0, "high": 0}
    assert models["tiny-2"]["accuracy"] == models["tiny"]["accuracy"]
    scores = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert len(scores) == 12 and list(scores[0]["chosen"]) == ["tiny", "tiny-2", "cut"]
    assert all(line["rejected"]["tiny"] == line["rejected"]["tiny-2"] for line in scores)
    long = sum(None in (line["chosen"]["cut"], line["rejected"]["cut"]) for line in scores)
    assert 0 < long < 12 and summary["compare"]["left_out"] == long
    margins = np.array([line["chosen"]["tiny"] - line["rejected"]["tiny"] for line in scores])
    assert summary["metrics"]["accuracy"] == summary["reading"]["tiny"]["own"]["accuracy"] == wins(margins).mean()
    bins = json.loads((tmp_path / "out" / "reliability.json").read_text())["tiny"]
    assert sum(each["n"] for each in bins["equal_width"]) == 24
    assert bins["risk_coverage"][-1]["accuracy"] == pytest.approx(summary["metrics"]["accuracy"])
    lines = (tmp_path / "out" / "tables.txt").read_text().splitlines()
    start = lines.index("Reward models on the evaluated pairs") + 3  # heading, and the row of tiny on all pairs
    table = [line.split() for line in lines[start : start + 3]]
    assert [row[:2] for row in table] == [[name, str(12 - long)] for name in models]
    assert table[0][3] == f"{100 * models['tiny']['accuracy']:.1f}", "after the unknown number of prompts"
    assert any(line.startswith("  words shared with the speech") for line in lines), "the audit's baselines"
