"""Tests of a sweep's ending: mean and spread by setting, a warning on losses, and the report command."""

import json
from pathlib import Path
from statistics import fmean, stdev

import pytest

from psychocounsel.reporting.sweep_ending import sweep_ending
from tests.support.harness import cli
from tests.support.report_folders import sweep


def test_figures_are_means_over_seeds_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    jobs = [["algo=dpo", f"algo.beta={beta}", f"seed={seed}"] for beta in ("0.1", "0.5") for seed in (1, 2)]
    folder = sweep(tmp_path / "sweep", jobs)
    lines = sweep_ending(folder).splitlines()
    head, first, second = (line.split("  ") for line in lines[1:4])
    assert [text.strip() for text in head if text] == ["setting", "runs", "accuracy (%)", "margin"]
    for line, beta in ((first, "0.1"), (second, "0.5")):
        given = [file for file in folder.glob("*/overrides.txt") if f"algo.beta={beta}" in file.read_text().split()]
        bests = [json.loads(file.with_name("summary.json").read_text())["metrics"]["best"] for file in given]
        values = [best["eval/accuracy"] for best in bests]
        shown = f"{100 * fmean(values):.1f} ± {100 * stdev(values):.1f}"
        assert [text.strip() for text in line if text][:3] == [f"algo.beta={beta}", "2", shown]
    assert "warning: Losses cannot be compared" in "\n".join(lines)
    assert lines[-1] == "report: psychocounsel report sweep"


def test_losses_that_can_be_compared_need_no_warning(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "sweep", [["algo=dpo", f"algo.lr={lr}", "seed=1"] for lr in ("1e-4", "1e-3")])
    text = sweep_ending(folder)
    assert "warning" not in text and "loss" in text.splitlines()[1]


def test_a_damaged_run_does_not_hide_the_others(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "sweep", [["algo=dpo", f"seed={seed}"] for seed in (1, 2)])
    summary = next(folder.glob("*/summary.json"))
    summary.write_text("{")
    assert "1 of 2" in sweep_ending(folder)


@pytest.mark.slow
def test_a_sweep_of_trainings_ends_so(tmp_path: Path) -> None:
    given = ["-m", "debug=fast", "algo=dpo", "seed=1,2", "sweep_dir=sweep"]
    result = cli("train", *given, cwd=tmp_path)
    table, ending = result.stdout.rsplit("\n\n", 1)
    assert table.splitlines()[-1].startswith("done ") and " ± " in ending
    assert ending.splitlines()[-1] == "report: psychocounsel report sweep"
    assert "report              psychocounsel report sweep/" in result.stderr, "each run prints it, too"
    dry = cli("train", *given, "dry_run=true", cwd=tmp_path).stdout
    assert "report: " not in dry
