"""Tests of trade-offs by win rates of separate evaluations, against the files that they wrote."""

from pathlib import Path

import pytest
import yaml

from psychocounsel.reporting.reading.known_folders import read_material
from psychocounsel.reporting.sections.training import pareto_section
from tests.reporting.sections.evaluations.shown import rows, tables
from tests.support.report_folders import sweep, winrate_run


def evaluated(folder: Path, run: Path, win_rate: float) -> None:
    """Write an evaluation of the model of `run`."""
    winrate_run(folder, win_rate=win_rate, speech=None)
    values = yaml.safe_load((folder / "config.yaml").read_text())
    first = values["contestants"]["settings"][0]
    for member in values["contestants"]["members"]:
        if member["name"] == first:
            member["model"] = f"{run}/model"
    (folder / "config.yaml").write_text(yaml.safe_dump(values))


def test_win_rates_of_evaluations_stand_against_lengths_of_the_trainings_that_they_evaluate(tmp_path: Path) -> None:
    jobs = [["algo=grpo", f"algo.lr={rate}", f"seed={seed}"] for rate in ("1e-4", "3e-4") for seed in (1, 2)]
    folder = sweep(tmp_path / "sweep", jobs, online=True)
    rates = [0.55, 0.65, 0.7, 0.9]
    for number, ((_, rate, seed), won) in enumerate(zip(jobs, rates, strict=True)):
        [run] = folder.glob(f"*{rate.partition('=')[2]}*seed-{seed[-1]}")
        evaluated(tmp_path / f"evaluation-{number}", run, won)
    found = pareto_section.section(read_material([tmp_path], shows_texts=False))
    assert "pareto-length" in tables(found)
    table = rows(found, "pareto-length")
    assert [row["win rate by judges"].value for row in table] == pytest.approx([0.6, 0.8])
    assert [row["win rate by judges"].n for row in table] == [2, 2]

    evaluated(tmp_path / "another", run, 0.1)
    table = rows(pareto_section.section(read_material([tmp_path], shows_texts=False)), "pareto-length")
    assert table[1]["win rate by judges"].value == 0.7, (
        "a run with two evaluations by different judges gets the win rate of neither"
    )
