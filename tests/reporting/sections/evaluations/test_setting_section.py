"""Tests of evaluations by setting: means over training seeds, against numpy on the files themselves."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from psychocounsel.reporting.reading.known_folders import read_material
from psychocounsel.reporting.sections.evaluations import setting_section
from psychocounsel.reporting.terminal.sweep_ending import sweep_ending
from tests.reporting.sections.evaluations.shown import rows
from tests.support.report_folders import reward_run, sweep, winrate_run

WINS = {("0.1", 1): 0.5, ("0.1", 2): 0.75, ("0.2", 1): 0.9, ("0.2", 2): 1.0}


def judged(folder: Path) -> list[Path]:
    """Write training runs of two settings with two seeds each, and a win rate for each run."""
    runs = sweep(folder / "runs", [[f"algo.beta={beta}", f"seed={seed}"] for beta, seed in WINS])
    for (beta, seed), wins in WINS.items():
        made = winrate_run(folder / "judged" / f"{beta}-{seed}", win_rate=wins)
        model = runs / f"beta-{beta}_seed-{seed}" / "model"
        config = (made / "config.yaml").read_text().replace("model: builtin:tiny_dpo", f"model: {model}")
        (made / "config.yaml").write_text(config)
    return [runs, folder / "judged"]


def test_win_rates_are_means_over_the_seeds_of_the_models(tmp_path: Path) -> None:
    found = rows(setting_section.section(read_material(judged(tmp_path))), "by-setting-winrate")
    assert [(row["setting"], row["runs"]) for row in found] == [("algo.beta=0.1", "2"), ("algo.beta=0.2", "2")]
    for row, beta in zip(found, ("0.1", "0.2"), strict=True):
        values = [WINS[beta, seed] for seed in (1, 2)]
        low, high = stats.t.interval(0.95, 1, np.mean(values), stats.sem(values))
        cell = row["win rate"]
        assert (cell.value, cell.sd) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
        assert (cell.low, cell.high) == pytest.approx((max(low, 0), min(high, 1)))


def test_without_seeds_the_section_is_left_to_the_tables_of_each_evaluation(tmp_path: Path) -> None:
    first, second = (winrate_run(tmp_path / name, f"limit={n}") for n, name in ((8, "a"), (9, "b")))
    assert setting_section.section(read_material([first, second])).blocks == []


def test_a_sweep_of_evaluations_ends_with_a_line_for_each_model(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    listed = []
    for index, name in enumerate(("beta-1", "beta-2")):
        made = winrate_run(folder / name, win_rate=0.6 + index / 10)
        text = (made / "config.yaml").read_text().replace("tiny_dpo", name)
        (made / "config.yaml").write_text(text)
        listed.append({"index": index, "overrides": [f"model.path=runs/{name}"], "run_dir": name})
    (folder / "sweep.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in listed))
    head, first, second, command = sweep_ending(folder).strip().splitlines()
    assert head.split("  ")[0] == "setting" and "win rate (%)" in head
    assert first.split() == ["model=beta-1", "1", "60.0", "(50.0", "to", "70.0)"]
    assert second.split()[:3] == ["model=beta-2", "1", "70.0"]
    assert command.startswith("report: ")


def test_reward_models_have_columns_of_their_own(tmp_path: Path) -> None:
    for name, accuracy in (("tiny", 0.6), ("tiny_2", 0.7)):
        reward_run(tmp_path / name, f"reward={name}", accuracy=accuracy)
    tables = setting_section.setting_tables(read_material([tmp_path]))
    assert tables["reward"].headings == ["setting", "runs", "pairs", "accuracy"]
    assert [row[0] for row in tables["reward"].rows] == ["reward=tiny", "reward=tiny_2"]
