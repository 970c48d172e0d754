"""Tests of the report's CSV, LaTeX, PDF and reproducibility.md against tables and run files that the tests write."""

import csv
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.blocks.kinds import Chart, Curve, Report, ReportTable, Section
from psychocounsel.blocks.tables import Table, TableFigure, csv_of
from psychocounsel.reporting.exports import write_cells, write_figures, write_tables
from psychocounsel.reporting.maker import Options, make_report
from psychocounsel.rundir.paths import ReportDir
from tests.support.report_folders import slurm_attempt, sweep, training_run, winrate_run

THIRD = 1 / 3


def report(*blocks: ReportTable | Chart) -> Report:
    return Report("mine", ["runs/mine"], [Section("final", "Final", blocks)])


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return [*csv.DictReader(file)]


def test_each_cell_is_a_line_with_all_digits(tmp_path: Path) -> None:
    figure = TableFigure(THIRD, 0.1, THIRD - 0.2, THIRD + 0.2, 3, percent=True)
    table = Table(
        "Final", ["setting", "accuracy", "status"], [["algo=dpo, beta=0.1", figure, "2 of 3"], ["b", None, None]]
    )
    write_cells(report(ReportTable("final", table)), tmp_path / "report.csv")
    found = rows(tmp_path / "report.csv")
    assert len(found) == 6
    about = {"section": "final", "table": "final", "line": "1", "row": "algo=dpo, beta=0.1"}
    numbers = {
        "value": repr(THIRD),
        "sd": "0.1",
        "n": "3",
        "low": repr(THIRD - 0.2),
        "high": repr(THIRD + 0.2),
        "text": "",
    }
    assert found[1] == {**about, "column": "accuracy", **numbers}
    assert (found[2]["text"], found[2]["value"]) == ("2 of 3", "")
    assert found[4] == {
        "section": "final",
        "table": "final",
        "line": "2",
        "row": "b",
        "column": "accuracy",
    } | dict.fromkeys(numbers, "")


def test_an_interval_without_width_is_left_out_with_its_reason(tmp_path: Path) -> None:
    table = Table("Final", ["judge", "wins"], [["a", TableFigure(0.5, None, 0.5, 0.5)]])
    write_cells(report(ReportTable("final", table)), tmp_path / "report.csv")
    [_, wins] = rows(tmp_path / "report.csv")
    assert (wins["value"], wins["low"], wins["high"]) == ("0.5", "", "")
    assert wins["text"] == "no interval, because all groups have this value: too few decide it"
    assert csv_of(table) == "judge,wins,wins sd,wins n,wins low,wins high\na,0.5,,1,,\n"


def test_the_figures_of_a_run_are_those_of_its_files(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "sweep", [["seed=1"], ["seed=2"], ["seed=3"]])
    made = make_report([folder], Options())
    assert made.files.path == folder / "report"
    best = [
        json.loads((run / "summary.json").read_text())["metrics"]["best"]["eval/accuracy"]
        for run in sorted(folder.glob("seed-*"))
    ]
    mean = sum(best) / 3
    sd = (sum((value - mean) ** 2 for value in best) / 2) ** 0.5
    cells = [
        row
        for row in rows(made.files.cells)
        if row["table"] == "final" and "accuracy" in row["column"] and row["value"]
    ]
    assert any(
        float(row["value"]) == pytest.approx(mean, abs=1e-15)
        and float(row["sd"]) == pytest.approx(sd, abs=1e-15)
        and row["n"] == "3"
        for row in cells
    )


def test_latex_and_pdf_have_a_file_for_each_block(tmp_path: Path) -> None:
    table = ReportTable("final", Table("Final & best", ["setting", "accuracy"], [["a_b", TableFigure(0.5)]]))
    curve = Curve("a", {"steps": [1, 2, 3]}, [0.1, float("nan"), 0.3], group="g")
    band = Curve("b", {"steps": [1, 2, 3]}, [0.2, 0.3, 0.4], [0.1, 0.2, 0.3], [0.3, 0.4, 0.5])
    points = Curve("c $x$", {"place": [0, 1]}, [0.5, 0.6], [0.4, 0.6], [0.6, 0.7], points=True)
    charts = [
        Chart("loss", "Loss", "nats", [curve, band], reference=0.2),
        Chart("places", "Places", "share", [points], ticks=["one", "two"], diagonal=True),
        Chart("none", "None", "share", []),
    ]
    files = ReportDir(tmp_path)
    write_tables(report(table, *charts), files)
    assert write_figures(report(table, *charts), files) == []
    assert r"a\_b & 0.5 \\" in files.table("final").read_text() and r"Final \& best" in files.table("final").read_text()
    assert sorted(path.name for path in files.figures.iterdir()) == ["loss.pdf", "places.pdf"]
    first = files.figure("loss").read_bytes()
    assert first.startswith(b"%PDF") and first.count(b"/Type /Page ") == 1 and b"/Type3" not in first
    files.figure("loss").unlink(), files.figure("places").unlink(), files.figures.rmdir()
    write_figures(report(*charts), files)
    assert files.figure("loss").read_bytes() == first, "the same report is the same file"


def test_a_chart_of_named_places_lies_down(tmp_path: Path) -> None:
    """The PDF has its axes as the page has them: names at the left, values and the line of chance across."""
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig

    def seen(figure: Figure, *where: Any, **how: Any) -> None:
        drawn.append(figure)
        save(figure, *where, **how)

    points = Curve("wins", {"place": [0, 1]}, [60.0, 70.0], [50.0, 65.0], [70.0, 75.0], points=True)
    chart = Chart("answer", "All", "per cent", [points], ticks=["one", "two"], reference=50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", seen)
        write_figures(report(chart), ReportDir(tmp_path))
    [axes] = drawn[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]
    assert axes.get_xlabel() == "per cent" and axes.yaxis_inverted()
    [values] = [line for line in axes.lines if line.get_marker() == "o"]
    assert [*values.get_xdata()] == [60.0, 70.0] and [*values.get_ydata()] == [0.0, 1.0]


def test_without_matplotlib_a_line_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    chart = Chart("loss", "Loss", "nats", [Curve("a", {"steps": [1]}, [0.1])])
    assert write_figures(report(chart), ReportDir(tmp_path)) == [
        "1 chart is not written as PDF: matplotlib is not installed; pip install 'psychocounsel[figures]'"
    ]
    assert not ReportDir(tmp_path).figures.exists()


def test_reproducibility_adds_up_hours_and_cost_and_names_what_was_used(tmp_path: Path) -> None:
    run = training_run(tmp_path / "run", "algo=dpo", "model.system_prompt='be brief'", gpus=["H100"], lines=[])
    slurm_attempt(run, 1, 1000.0, 1000.0 + 7200, "failed")
    slurm_attempt(run, 2, 9000.0, 9000.0 + 1800)
    winrate_run(tmp_path / "first"), winrate_run(tmp_path / "second")
    text = make_report([tmp_path], Options()).files.reproducibility.read_text()
    assert "GPU-hours: 2.5. " in text, "two hours failed, half an hour finished"
    assert "160 answers, cost 2.5 in the currency" in text
    environment = json.loads((run / "environment.json").read_text())
    for part in (
        "torch 2.13.0+cpu",
        "commit 4e012600c0330ca129cdbd67c0450adfece34e9c",
        "1 H100",
        environment["data"],
        "apache-2.0",
        "seed 1",
    ):
        assert part in text
    assert environment["weights"].replace(":", r"\:") in text
    [command] = [line for line in text.splitlines() if line.startswith("psychocounsel train")]
    assert shlex.split(command)[2:] == (run / "overrides.txt").read_text().splitlines()


def test_reproducibility_leaves_out_a_run_of_another_version(tmp_path: Path) -> None:
    training_run(tmp_path / "mine", "algo=dpo")
    odd = winrate_run(tmp_path / "odd")
    for record in (odd / "steps").glob("*.json"):
        record.write_text('{"figures": {"bought": 3, "spent": 0.0}, "settings": ["other"]}')
    text = make_report([tmp_path], Options()).files.reproducibility.read_text()
    assert "odd is missing: its files cannot be read here" in text
    assert len([line for line in text.splitlines() if line.startswith("psychocounsel ")]) == 1


@pytest.mark.slow
def test_reproducibility_names_what_was_searched(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "sweep", [[f"algo.beta={beta}", "seed=1"] for beta in (0.1, 0.2)])
    about = {"metric": "eval/loss", "mode": "min", "chosen": {"run": "beta-0.2_seed-1", "value": 0.25}}
    (folder / "best.json").write_text(json.dumps(about))
    recipe = "settled:\n  algo.lr: {trial: 0, seed: 7, low: 0.0001, high: 0.01, log: true, value: 0.0003}\n"
    for run in folder.glob("beta-*"):
        config = (run / "config.yaml").read_text()
        assert "settled: {}\n" in config
        (run / "config.yaml").write_text(config.replace("settled: {}\n", recipe))
    text = make_report([folder], Options()).files.reproducibility.read_text()
    assert "algo.lr: 0.0001 to 0.01 on a logarithmic scale, searched by Optuna with seed 7" in text
    assert "algo.beta: 0.1, 0.2" in text and "seeds: 1" in text
    assert r"chosen by the smallest eval/loss: beta-0.2\_seed-1 (0.25)" in text
