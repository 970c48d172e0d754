"""Tests of online training's rounds, of reward against divergence, and of trade-offs."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml

from psychocounsel.blocks.tables import TableFigure
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.reading.folders import read_material
from psychocounsel.reporting.sections import curves, trade_offs
from psychocounsel.reporting.sections.trade_offs import TradeOff, front
from psychocounsel.studies.tables.runs import Setting
from tests.reporting.sections.shown import material_of, trained
from tests.support.report_folders import sweep, winrate_run
from tests.support.shown_blocks import chart, rows, said, tables

# Hand-made runs

# A round has two steps. Its first line holds the figures of its replies.
LINES = [
    {"step": 0, "eval/reward": -1.0, "eval/kl": 0.0, "eval/reward_gold": 0.2, "eval/win_rate": 0.5},
    {
        "step": 1,
        "loss": 0.7,
        "tokens": 10,
        "step_seconds": 36.0,
        "rollout/reward": -1.0,
        "rollout/length": 50,
        "rollout/kl": 0.0,
    },
    {
        "step": 2,
        "loss": 0.6,
        "tokens": 10,
        "step_seconds": 36.0,
        "eval/reward": 0.5,
        "eval/kl": 4.0,
        "eval/reward_gold": 0.9,
    },
    {
        "step": 3,
        "loss": 0.5,
        "tokens": 10,
        "step_seconds": 36.0,
        "rollout/reward": 0.4,
        "rollout/length": 70,
        "rollout/kl": 5.0,
    },
    {
        "step": 4,
        "loss": 0.4,
        "tokens": 10,
        "step_seconds": 36.0,
        "eval/reward": 2.0,
        "eval/kl": 9.0,
        "eval/reward_gold": 0.1,
    },
]


def run(**more: object) -> RunMaterial:
    environment = {"processes": 2, "versions": {}, "gpus": ["a", "b"]}
    return trained({"x": "1"}, 1, {"eval/reward": 2.0}, lines=LINES, environment=environment, **more)


def test_rounds_are_numbered_and_begin_where_replies_are_made() -> None:
    found = curves.round_section(material_of(run()))
    [reward] = chart(found, "round-reward").curves
    assert list(reward.x["rounds"]) == [1, 2] and list(reward.x["steps"]) == [1, 3] and list(reward.y) == [-1.0, 0.4]
    first, last = rows(found, "rounds")
    assert (first["round"], first["step"], first["reward"].value, first["length (tokens)"].value) == (
        "1",
        "1",
        -1.0,
        50,
    )
    assert (last["round"], last["step"], last["KL (nats)"].value) == ("2", "3", 5.0)
    assert "unfinished" in first and first["unfinished"] is None


def test_offline_runs_have_no_rounds() -> None:
    assert curves.round_section(material_of(trained({}, lines=[{"step": 1, "loss": 0.5}]))).blocks == []


def test_reward_lies_against_divergence_along_training() -> None:
    found = trade_offs.overoptimisation_section(material_of(run()))
    [reward] = chart(found, "divergence-reward").curves
    assert list(reward.x["KL from the reference (nats per reply)"]) == [0.0, 4.0, 9.0] and list(reward.y) == [
        -1.0,
        0.5,
        2.0,
    ]
    assert list(reward.x["prompts"]) == [0, 64, 128]  # 32 prompts per step
    assert list(reward.x["GPU-hours"]) == pytest.approx([0, 2 * 36 * 2 / 3600, 4 * 36 * 2 / 3600])
    assert reward.labels == ["step 0", "step 2", "step 4"]
    [gold] = chart(found, "divergence-reward-gold").curves
    assert list(gold.y) == [0.2, 0.9, 0.1]


def test_a_second_judge_that_falls_while_the_reward_rises_is_named() -> None:
    [line] = said(trade_offs.overoptimisation_section(material_of(run())), "warning")
    assert (
        "eval/reward_gold is highest at step 2 (4 nats), then falls from 0.9 to 0.1 while eval/reward rises from 0.5 to 2"
        in line
    )


def test_a_fall_within_the_intervals_is_no_sign() -> None:
    lines = [
        line | {f"eval/reward_gold_{end}": line["eval/reward_gold"] + step for end, step in (("low", -1), ("high", 1))}
        if "eval/reward_gold" in line
        else line
        for line in LINES
    ]
    found = trade_offs.overoptimisation_section(material_of(trained({}, lines=lines)))
    assert not any("over-optimisation" in text for text in said(found, "warning"))


def test_without_a_second_judge_nothing_can_be_seen() -> None:
    lines = [
        {key: value for key, value in line.items() if "gold" not in key and "win_rate" not in key} for line in LINES
    ]
    found = trade_offs.overoptimisation_section(material_of(trained({}, lines=lines)))
    assert any("over-optimisation cannot be detected" in text for text in said(found, "warning"))


def test_the_front_is_what_nothing_beats() -> None:
    random = np.random.default_rng(0)
    values = [*(tuple(pair) for pair in random.integers(0, 6, (40, 2)))]
    points = [
        TradeOff(Setting(str(i)), TableFigure(float(good)), TableFigure(float(cost)))
        for i, (good, cost) in enumerate(values)
    ]
    for smaller in (True, False):
        kept = {(point.good.value, point.cost.value) for point in front(points, smaller)}
        sign = 1 if smaller else -1
        beaten = {
            (good, cost)
            for (good, cost), (other, price) in product(values, values)
            if other >= good and sign * price <= sign * cost and (other, price) != (good, cost)
        }
        assert kept == {*values} - beaten


def test_settings_of_the_front_are_named_with_their_figures() -> None:
    figures = {"a": (0.8, 60.0), "b": (0.7, 80.0), "c": (0.9, 90.0)}
    runs = [
        trained(
            {"x": x}, seed, {"eval/win_rate": rate + 0.02 * seed, "eval/length": length, "eval/reward_safety": 1 - rate}
        )
        for x, (rate, length) in figures.items()
        for seed in (1, 2)
    ]
    found = trade_offs.pareto_section(material_of(*runs))
    assert tables(found) == ["pareto-length", "pareto-reward-safety"]
    named = [(row["setting"], row["best trade-off"]) for row in rows(found, "pareto-length")]
    assert named == [("x=a", "yes"), ("x=b", ""), ("x=c", "yes")]
    assert rows(found, "pareto-length")[0]["win_rate"].value == pytest.approx(0.83)
    assert ": x=a and x=c." in said(found)[0]
    line = chart(found, "pareto-length").curves[-1]
    assert line.title == "best trade-offs" and list(line.x["length (tokens)"]) == [60.0, 90.0]
    assert [row["best trade-off"] for row in rows(found, "pareto-reward-safety")] == [
        "yes",
        "yes",
        "yes",
    ]  # more safety is better


def test_one_setting_has_no_trade_off() -> None:
    runs = [trained({}, seed, {"eval/win_rate": 0.5, "eval/length": 50.0}) for seed in (1, 2)]
    assert trade_offs.pareto_section(material_of(*runs)).blocks == []


# Win rates of separate evaluations


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
    found = trade_offs.pareto_section(read_material([tmp_path], shows_texts=False))
    assert "pareto-length" in tables(found)
    table = rows(found, "pareto-length")
    assert [row["win rate by judges"].value for row in table] == pytest.approx([0.6, 0.8])
    assert [row["win rate by judges"].n for row in table] == [2, 2]

    evaluated(tmp_path / "another", run, 0.1)
    table = rows(trade_offs.pareto_section(read_material([tmp_path], shows_texts=False)), "pareto-length")
    assert table[1]["win rate by judges"].value == 0.7, (
        "a run with two evaluations by different judges gets the win rate of neither"
    )
