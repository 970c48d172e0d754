"""Tests of charts of characters: values are in the right places, for any width and encoding."""

import math
from pathlib import Path

import pytest

from psychocounsel.reporting.reading.folders import read_material
from psychocounsel.reporting.small_charts import small_charts
from tests.support.harness import cli
from tests.support.report_folders import sweep, training_run

FALLING = [{"step": step, "attempt": 1, "loss": 1.0 - step / 10, "step_seconds": 1.0} for step in range(1, 9)]


def places(chart: str, letter: str) -> list[tuple[int, int]]:
    """Return row and column of each such letter inside the frame."""
    inside = [
        line.partition("|")[2] or line.partition("+")[2]
        for line in chart.splitlines()[2:]
        if line.rstrip().endswith("|")
    ]
    return [(row, column) for row, line in enumerate(inside) for column, sign in enumerate(line) if sign == letter]


@pytest.mark.parametrize("width", [40, 100])
def test_a_falling_loss_falls_over_the_width_of_the_terminal(tmp_path: Path, width: int) -> None:
    run = training_run(tmp_path / "mine", "algo=dpo", lines=FALLING)
    text = small_charts(run, width, "ascii")
    assert text.isascii() and max(map(len, text.splitlines())) == width
    found = places(text, "a")
    rows = [row for row, _ in sorted(found, key=lambda place: place[1])]
    assert rows == sorted(rows) and len({*rows}) > 5, "every later point is lower"
    assert "0.9" in text and "0.2" in text, "the ends of the axis are the largest and the smallest loss"
    assert text.splitlines()[-1] == "  a  mine"


def test_the_frame_is_drawn_where_the_terminal_can_show_it(tmp_path: Path) -> None:
    run = training_run(tmp_path / "mine", "algo=dpo", lines=FALLING)
    assert "┌" in small_charts(run, 60, "utf-8")


def test_runs_have_letters_and_kinds_of_loss_their_own_charts(tmp_path: Path) -> None:
    folder = sweep(
        tmp_path / "sweep", [[f"algo={name}", f"seed={seed}"] for name in ("dpo", "simpo") for seed in (1, 2)]
    )
    text = small_charts(folder, 70, "ascii")
    first, second, margin = text.split("\n\n")
    assert "Training loss (DPO, sigmoid) by step" in first and "Training loss (SimPO) by step" in second
    assert first.splitlines()[-2:] == ["  a  algo=dpo, seed=1", "  b  algo=dpo, seed=2"]
    assert "Training margin by step" in margin and margin.splitlines()[-1] == "  d  algo=simpo, seed=2"


def test_many_runs_are_counted_and_the_reward_is_drawn(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "sweep", [["algo=grpo", f"seed={seed}"] for seed in range(10)], online=True)
    loss, reward = small_charts(folder, 60, "ascii").split("\n\n")
    assert loss.splitlines()[-1] == "  and 2 more (psychocounsel report shows all)"
    assert "Reward of replies in training" in reward


def test_values_that_are_not_finite_and_runs_without_metrics(tmp_path: Path) -> None:
    broken = [{**line, "loss": math.nan} if line["step"] == 3 else line for line in FALLING]
    run = training_run(tmp_path / "mine", "algo=dpo", lines=broken)
    assert "nan" not in small_charts(run, 60, "ascii")
    empty = training_run(tmp_path / "empty", "algo=dpo", lines=[], status=None)
    assert small_charts(empty, 60) == "nothing to plot: no training run here has written metrics yet"


def test_jobs_status_plots_below_its_table(tmp_path: Path) -> None:
    training_run(tmp_path / "mine", "algo=dpo", lines=FALLING)
    result = cli("jobs", "status", "mine", "--plot", cwd=tmp_path, cold=True, PYTHONIOENCODING="ascii", COLUMNS="72")
    table, *_, chart = result.stdout.split("\n\n")
    assert table.startswith("index") and result.stdout.isascii()
    assert "Training loss" in chart and max(map(len, chart.splitlines())) == 72
    assert "Training loss" not in cli("jobs", "status", "mine", cwd=tmp_path).stdout


def test_charts_show_the_runs_of_the_report(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "sweep", [["algo=dpo", f"seed={seed}"] for seed in (1, 2)])
    titles = [run.title for run in read_material([folder]).runs]
    assert all(f"  {letter}  {title}" in small_charts(folder, 60) for letter, title in zip("ab", titles, strict=True))
