"""Tests of training curves: all points of the files over steps, tokens and GPU-hours; separate charts by kind of loss."""

import json
import math
from pathlib import Path

import pytest

from psychocounsel.blocks.kinds import Chart
from psychocounsel.reporting.reading.folders import read_material
from psychocounsel.reporting.sections.curves import curve_section, other_curve_section
from tests.reporting.sections.shown import material_of, trained
from tests.support.report_folders import training_run
from tests.support.shown_blocks import chart, said


def test_curves_hold_every_line_of_the_file_along_three_axes(tmp_path: Path) -> None:
    folder = training_run(tmp_path / "a", "algo=dpo", "seed=3", steps=7, every=3, processes=4, gpus=["H200"] * 4)
    raw = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = curve_section(read_material([folder], shows_texts=False))
    [loss] = chart(found, "curve-loss").curves
    steps = [line for line in raw if "loss" in line]
    assert loss.y == [line["loss"] for line in steps] and loss.x["steps"] == [line["step"] for line in steps]
    tokens = [sum(line.get("tokens", 0) for line in raw if line["step"] <= each["step"]) for each in steps]
    hours = [
        sum(line.get("step_seconds", 0) for line in raw if line["step"] <= each["step"]) * 4 / 3600 for each in steps
    ]
    assert loss.x["tokens"] == tokens and loss.x["GPU-hours"] == pytest.approx(hours)
    [accuracy] = chart(found, "curve-eval-accuracy").curves
    evaluated = [line for line in raw if "eval/accuracy" in line]
    assert len(accuracy.x["tokens"]) == len(accuracy.y) == len(evaluated) == 4
    assert accuracy.low == [line["eval/accuracy_low"] for line in evaluated]
    assert accuracy.high == [line["eval/accuracy_high"] for line in evaluated]
    assert not any(block.name.endswith(("low", "high")) for block in found.blocks if isinstance(block, Chart))
    assert said(found) == []


def test_losses_of_other_kinds_stand_in_charts_of_their_own() -> None:
    lines = [{"step": 1, "loss": 0.7, "rewards/margin": 0.1}]
    simpo = {"_target_": "psychocounsel.algo.simpo.SimPO", "loss_type": ""}
    runs = [
        trained({"algo": "dpo"}, 1, lines=lines),
        trained({"algo": "dpo"}, 2, lines=lines, algo={"lr": 1e-3}),
        trained({"algo": "ipo"}, 1, lines=lines, algo={"loss_type": "ipo"}),
        trained({"algo": "simpo"}, 1, lines=lines, algo=simpo),
    ]
    found = curve_section(material_of(*runs))
    losses = [block for block in found.blocks if isinstance(block, Chart) and block.name.startswith("curve-loss")]
    assert [(each.name, [curve.title for curve in each.curves]) for each in losses] == [
        ("curve-loss-dpo-sigmoid", ["algo=dpo, seed=1", "algo=dpo, seed=2"]),
        ("curve-loss-dpo-ipo", ["algo=ipo, seed=1"]),
        ("curve-loss-simpo", ["algo=simpo, seed=1"]),
    ]
    assert all("Losses of other algorithms" in each.notes[0] for each in losses)
    margins = chart(other_curve_section(material_of(*runs)), "curve-rewards-margin")
    assert len(margins.curves) == 4 and "different scales" in margins.notes[0]


def test_losses_with_another_beta_are_overlaid_with_a_warning() -> None:
    lines = [{"step": 1, "loss": 0.7}]
    runs = [trained({"algo.beta": str(beta)}, 1, lines=lines, algo={"beta": beta}) for beta in (0.1, 0.3)]
    loss = chart(curve_section(material_of(*runs)), "curve-loss")
    assert len(loss.curves) == 2
    assert loss.notes == ["algo.beta differs between runs and the loss depends on it: compare shapes, not heights."]
    assert [curve.group for curve in loss.curves] == ["algo.beta=0.1", "algo.beta=0.3"]


def test_equal_settings_have_no_warning_and_nan_no_point() -> None:
    lines = [{"step": step, "loss": loss} for step, loss in ((1, 0.7), (2, math.nan), (3, 0.5))]
    runs = [trained({}, seed, lines=lines) for seed in (1, 2)]
    loss = chart(curve_section(material_of(*runs)), "curve-loss")
    assert [list(curve.y) for curve in loss.curves] == [[0.7, 0.5]] * 2 and loss.curves[0].x["steps"] == [1, 3]
    assert not loss.notes
