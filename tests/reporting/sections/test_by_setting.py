"""Tests of figures by setting, against numpy on the files themselves."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from psychocounsel.blocks.kinds import Chart
from psychocounsel.reporting.reading.folders import read_material
from psychocounsel.reporting.sections import by_setting
from psychocounsel.reporting.sweep_ending import sweep_ending
from tests.reporting.sections.shown import material_of, trained
from tests.support.report_folders import reward_run, sweep, winrate_run
from tests.support.shown_blocks import chart, rows, said

# Final figures and effects of settings


def best_figures(sweep_dir: Path, override: str, key: str) -> list[float]:
    """Return the figure at the best evaluation of each run that was given the override."""
    runs = [file.parent for file in sorted(sweep_dir.glob("*/overrides.txt")) if override in file.read_text().split()]
    return [json.loads((run / "summary.json").read_text())["metrics"]["best"][key] for run in runs]


def test_means_and_intervals_are_those_of_the_files(tmp_path: Path) -> None:
    jobs = [["algo=dpo", f"algo.beta={beta}", f"seed={seed}"] for beta in ("0.1", "0.5") for seed in (1, 2, 3)]
    folder = sweep(tmp_path / "sweep", jobs)
    found = by_setting.final_section(read_material([folder], shows_texts=False))
    table = rows(found, "final")
    assert [row["setting"] for row in table] == ["algo.beta=0.1", "algo.beta=0.5"]
    for row, beta in zip(table, ("0.1", "0.5"), strict=True):
        for heading, key in (("accuracy", "eval/accuracy"), ("margin", "eval/margin")):
            values = best_figures(folder, f"algo.beta={beta}", key)
            assert len(values) == 3
            cell = row[heading]
            assert (cell.value, cell.sd) == pytest.approx((np.mean(values), np.std(values, ddof=1)), abs=1e-15)
            if cell.sd:
                ends = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
                assert (cell.low, cell.high) == pytest.approx(ends)
    assert "loss" not in table[0] and "Losses cannot be compared" in said(found, "warning")[0]


def test_losses_have_a_column_where_they_can_be_compared() -> None:
    runs = [trained({"algo.lr": lr}, 1, {"eval/loss": 0.5}, algo={"lr": float(lr)}) for lr in ("1e-4", "1e-3")]
    found = by_setting.final_section(material_of(*runs))
    assert [row["loss"].value for row in rows(found, "final")] == [0.5, 0.5] and said(found) == []


def test_failed_runs_are_counted_and_not_averaged() -> None:
    runs = [
        trained({"x": "1"}, 1, {"eval/accuracy": 0.5}),
        trained({"x": "1"}, 2, {"eval/accuracy": 0.9}, status="failed"),
        trained({"x": "2"}, 1, status="running"),
    ]
    first, second = rows(by_setting.final_section(material_of(*runs)), "final")
    assert (first["runs"], first["accuracy"].value, first["accuracy"].sd) == ("1 of 2 (1 failed)", 0.5, None)
    assert (second["runs"], second["accuracy"]) == ("0 of 1 (1 running)", None)


LR = {"1e-5": [0.50, 0.56], "1e-4": [0.60, 0.61], "1e-3": [0.70, 0.75]}


def test_effects_show_each_run_and_marginal_means() -> None:
    runs = [
        trained(
            {"algo.lr": lr, "kind": kind},
            1,
            {"eval/accuracy": value},
            config={"checkpoint": {"metric": "eval/accuracy"}},
        )
        for lr, values in LR.items()
        for kind, value in zip(("a", "b"), values, strict=True)
    ]
    found = by_setting.effect_section(material_of(*runs))
    by_rate = chart(found, "effect-algo-lr")
    points, means = by_rate.curves
    assert by_rate.axes == ["log10 of algo.lr", "algo.lr"] and not by_rate.ticks
    assert means.x["log10 of algo.lr"] == pytest.approx([-5, -4, -3]) and means.x["algo.lr"] == [1e-5, 1e-4, 1e-3]
    assert means.y == pytest.approx([np.mean(values) for values in LR.values()])
    pairs = {(rate, value) for rate, value in zip(points.x["algo.lr"], points.y, strict=True)}
    assert pairs == {(float(lr), value) for lr, values in LR.items() for value in values}
    assert by_rate.notes == ["kind varies, too: points may differ in more than algo.lr."]
    by_kind = chart(found, "effect-kind")
    assert by_kind.ticks == ["a", "b"] and by_kind.curves[1].y == pytest.approx(
        [np.mean([v[i] for v in LR.values()]) for i in (0, 1)]
    )
    table = rows(found, "effects-means")
    assert [(row["setting"], row["value"], row["runs"]) for row in table][:2] == [
        ("algo.lr", "1e-5", "2"),
        ("algo.lr", "1e-4", "2"),
    ]
    assert table[0]["eval/accuracy"].sd == pytest.approx(np.std(LR["1e-5"], ddof=1))


def test_a_narrow_range_has_a_plain_axis_and_one_value_no_chart() -> None:
    runs = [trained({"n": n, "same": "x"}, 1, {"eval/loss": 0.5}) for n in ("2", "10")]
    charts = [block for block in by_setting.effect_section(material_of(*runs)).blocks if isinstance(block, Chart)]
    assert [each.axes for each in charts] == [["n"]]
    assert list(charts[0].curves[1].x["n"]) == [2.0, 10.0] and not math.isnan(charts[0].curves[1].y[0])


# Evaluations by setting

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
    found = rows(by_setting.evaluation_section(read_material(judged(tmp_path))), "by-setting-winrate")
    assert [(row["setting"], row["runs"]) for row in found] == [("algo.beta=0.1", "2"), ("algo.beta=0.2", "2")]
    for row, beta in zip(found, ("0.1", "0.2"), strict=True):
        values = [WINS[beta, seed] for seed in (1, 2)]
        low, high = stats.t.interval(0.95, 1, np.mean(values), stats.sem(values))
        cell = row["win rate"]
        assert (cell.value, cell.sd) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
        assert (cell.low, cell.high) == pytest.approx((max(low, 0), min(high, 1)))


def test_without_seeds_the_section_is_left_to_the_tables_of_each_evaluation(tmp_path: Path) -> None:
    first, second = (winrate_run(tmp_path / name, f"limit={n}") for n, name in ((8, "a"), (9, "b")))
    assert by_setting.evaluation_section(read_material([first, second])).blocks == []


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
    tables = by_setting.setting_tables(read_material([tmp_path]))
    assert tables["reward"].headings == ["setting", "runs", "pairs", "accuracy"]
    assert [row[0] for row in tables["reward"].rows] == ["reward=tiny", "reward=tiny_2"]
