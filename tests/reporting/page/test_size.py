"""Proof, run by hand: a page of 200 runs with 2,000 steps is small, made quickly and opens quickly."""

import math
import time
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.blocks.kinds import Chart, Curve, Report, ReportTable, Section
from psychocounsel.blocks.tables import Cell, Table, TableFigure
from psychocounsel.reporting import page as page_room

RUNS, STEPS = 200, 2000
METRICS = ("loss", "accuracy", "margin", "reward", "kl", "grad_norm", "tokens_per_second", "length")


@pytest.mark.proof
def test_200_runs_of_2000_steps_fit_on_a_page_that_opens_in_three_seconds(browser: Any, tmp_path: Path) -> None:
    report = large()
    path = tmp_path / "report.html"
    began = time.monotonic()
    page_room.write(report, path)
    made, size = time.monotonic() - began, path.stat().st_size
    times = [opening(browser, path) for _ in range(3)]
    opened = min(times)  # other processes of the machine can only make it longer
    print(f"\n{size / 1e6:.1f} MB, made in {made:.1f} s, opened in {opened:.2f} s")
    assert size < 15e6 and made < 20 and opened < 3
    assert "thinned from 2,000 to" in path.read_text()


def opening(browser: Any, path: Path) -> float:
    """Return the seconds until the page can be read and its first chart is drawn."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    began = time.monotonic()
    page.goto(path.as_uri(), wait_until="domcontentloaded")
    page.locator("#chart-loss[data-drawn]").wait_for()
    seconds = time.monotonic() - began
    page.close()
    return seconds


def large() -> Report:
    steps = range(1, STEPS + 1)
    x = {"steps": steps, "tokens": [81_920 * step for step in steps], "GPU-hours": [step * 0.0021371 for step in steps]}
    charts = [Chart(name, name, name, [_curve(name, run, x) for run in range(RUNS)], smooths=True) for name in METRICS]
    rows: list[list[Cell]] = [
        [f"run {run}", *(TableFigure(math.sin(run + n), low=-1.0, high=1.0) for n in range(8))] for run in range(RUNS)
    ]
    table = ReportTable("final", Table("Final figures", ["run", *METRICS], rows))
    return Report(
        "Large", ["sweeps/large"], [Section("training", "Training", charts), Section("table", "Table", [table])]
    )


def _curve(name: str, run: int, x: dict[str, Any]) -> Curve:
    y = [math.exp(-step / (300 + run)) + 0.1 * math.sin(step * (1.3 + run) + len(name)) for step in x["steps"]]
    return Curve(f"algo.beta={run // 5}, seed={run % 5}", x, y, group=f"algo.beta={run // 5}")
