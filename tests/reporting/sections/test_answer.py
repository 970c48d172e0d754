"""Tests of the answer section: the best setting with its interval, and no claim that the runs do not support."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev, variance

import pytest
from scipy.stats import t as student_t

from psychocounsel.reporting.material import AUDIT, EVALUATION, RunMaterial, StudyMaterial
from psychocounsel.reporting.sections.answer import section
from tests.reporting.sections.shown import material_of, trained
from tests.support.shown_blocks import rows, said, tables

FIGURES = {
    "0.1": [0.71, 0.74, 0.73, 0.72],
    "0.3": [0.52, 0.55, 0.51, 0.54],
    "1": [0.70, 0.75, 0.69, 0.72],
}


def sweep(figures: dict[str, list[float]]) -> list[RunMaterial]:
    return [
        trained({"algo.beta": beta}, seed, {"eval/accuracy": value, "eval/loss": 0.5}, algo={"beta": float(beta)})
        for beta, values in figures.items()
        for seed, value in enumerate(values, 1)
    ]


def welch(first: list[float], second: list[float]) -> tuple[float, float, float]:
    """Return p and the difference's 95 % interval by the formulas of Welch and Satterthwaite."""
    parts = [variance(values) / len(values) for values in (first, second)]
    error = sum(parts) ** 0.5
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (first, second), strict=True)
    )
    difference = fmean(first) - fmean(second)
    half = student_t.ppf(0.975, freedom) * error
    return 2 * student_t.sf(abs(difference) / error, freedom), difference - half, difference + half


def test_the_best_setting_has_the_interval_of_its_seeds() -> None:
    found = section(material_of(*sweep(FIGURES)))
    values = FIGURES["0.1"]
    half = student_t.ppf(0.975, 3) * stdev(values) / 2
    low, high = (f"{100 * (fmean(values) + sign * half):.1f}" for sign in (-1, 1))
    assert (
        f"algo.beta=0.1 has the largest eval/accuracy, 72.5 % (mean of 4 seeds, 95 % interval {low} to {high} %)"
        in said(found)[0]
    )
    assert "losses with different settings of the algorithm have different scales" in said(found)[0]


def test_what_it_beats_follows_from_welch_and_holm() -> None:
    found = section(material_of(*sweep(FIGURES)))
    by_setting = {row["other setting"]: row for row in rows(found, "answer-comparisons-1")}
    raw = {beta: welch(FIGURES["0.1"], FIGURES[beta]) for beta in ("0.3", "1")}
    smaller, larger = sorted(raw, key=lambda beta: raw[beta][0])
    expected = {smaller: 2 * raw[smaller][0], larger: max(2 * raw[smaller][0], raw[larger][0])}
    for beta, (_, low, high) in raw.items():
        row = by_setting[f"algo.beta={beta}"]
        assert row["p"].value == pytest.approx(expected[beta])
        assert (row["difference"].low, row["difference"].high) == pytest.approx((low, high))
        assert row["difference"].value == pytest.approx(fmean(FIGURES["0.1"]) - fmean(FIGURES[beta]))
        assert row["beaten"] == ("yes" if expected[beta] < 0.05 else "no")
    [verdict] = said(found, "warning")
    assert "It beats algo.beta=0.3." in verdict and "not shown to be better than algo.beta=1" in verdict


def with_interval(value: float) -> dict[str, float]:
    return {"eval/accuracy": value, "eval/accuracy_low": value - 0.05, "eval/accuracy_high": value + 0.05}


def test_a_single_run_of_each_claims_nothing() -> None:
    runs = [
        trained({"algo.beta": beta}, 1, with_interval(value), algo={"beta": float(beta)})
        for beta, value in (("0.1", 0.9), ("0.3", 0.5))
    ]
    found = section(material_of(*runs))
    assert "95 % interval over prompts 85.0 to 95.0 %; one run, so its spread over seeds is unknown" in said(found)[0]
    [row] = rows(found, "answer-comparisons-1")
    assert row["p"] is None and row["difference"].low is None and row["beaten"] == "not known"
    [verdict] = said(found, "warning")
    assert verdict == "Whether it beats algo.beta=0.3 is unknown, because a single run shows no spread over seeds."


def test_equal_seeds_show_no_spread_and_beat_nothing() -> None:
    found = section(material_of(*sweep({"0.1": [0.8, 0.8], "0.3": [0.6, 0.6]})))
    [row] = rows(found, "answer-comparisons-1")
    assert row["beaten"] == "not known" and "their runs show no spread" in said(found, "warning")[0]


def test_losses_of_one_kind_are_compared_and_the_smallest_is_best() -> None:
    runs = [trained({"algo.lr": lr}, seed, {"eval/loss": value}, algo={"lr": float(lr)})
            for lr, values in (("1e-4", [0.6, 0.62]), ("3e-4", [0.5, 0.53])) for seed, value in enumerate(values, 1)]  # fmt: skip
    assert "algo.lr=3e-4 has the smallest eval/loss, 0.515" in said(section(material_of(*runs)))[0]


def test_losses_of_several_kinds_alone_give_no_answer() -> None:
    runs = [trained({"algo.beta": beta}, 1, {"eval/loss": 0.5}, algo={"beta": float(beta)}) for beta in ("0.1", "0.3")]
    found = section(material_of(*runs))
    assert tables(found) == [] and "no finished run has a figure" in said(found, "warning")[0]


def test_other_held_out_data_are_told() -> None:
    other = {"data": {"path": "builtin:sample", "dev_fraction": 0.1}}
    runs = [
        trained({"x": "1"}, 1, {"eval/accuracy": 0.7}),
        trained({"x": "2"}, 1, {"eval/accuracy": 0.6}, config=other),
    ]
    [line] = said(section(material_of(*runs)), "bad")
    assert "evaluated on different held-out data (data.dev_fraction differs)" in line


def test_a_reward_model_is_not_compared_with_policies() -> None:
    reward = {"_target_": "psychocounsel.algo.reward.Reward"}
    runs = [
        trained({"algo": "dpo"}, 1, {"eval/accuracy": 0.6}),
        trained({"algo": "reward"}, 1, {"eval/accuracy": 0.9}, algo=reward),
    ]
    found = section(material_of(*runs))
    assert tables(found) == []
    assert [text.split(":")[0] for text in said(found)] == ["Policies", "Reward models"]


def test_gates_are_told_with_what_came_of_them() -> None:
    audit = RunMaterial(
        Path("/audit"), "audit", AUDIT, "", "refused", extra={"audit": {"gate": {"limit": 0.6, "verdict": "refused"}}}
    )
    health = RunMaterial(
        Path("/h"), "health", EVALUATION, "health", "finished", summary={"metrics": {"limits_exceeded": 0}}
    )
    marked = trained({}, 1, {"eval/reward": 1.0, "guard/kl": 1.0, "guard/length_ratio": 0.0})
    study = StudyMaterial(Path("/study"), "mine", ["a"], gates={"a": True, "b": None})
    found = section(material_of(audit, health, marked, studies=[study]))
    assert said(found, "good") == ["Gate a of study mine passed.", "health: health is within every limit."]
    assert said(found, "bad") == [f"{marked.title} exceeds the limit of kl at its last evaluation.",
                                  "Gate of audit audit: refused (limit of the blind accuracy: 0.6)."]  # fmt: skip
    assert "Gate b of study mine has not been decided yet." in said(found, "warning")


def test_settings_are_called_by_what_differs_among_those_compared() -> None:
    """Titles omit keys that differ only from runs compared by another metric."""
    figures = {"dpo": "eval/accuracy", "simpo": "eval/accuracy", "grpo": "eval/reward"}
    runs = [
        trained({"algo": algo, "steps": "8" if "acc" in metric else "6"}, 1, {metric: 0.5 + 0.1 * place})
        for place, (algo, metric) in enumerate(figures.items())
    ]
    first, _, second = said(section(material_of(*runs)))
    assert "algo=simpo has the largest eval/accuracy" in first and "algo=grpo, steps=6 has eval/reward" in second


def test_a_figure_in_doubt_wins_nothing() -> None:
    doubt = "judge j can't tell good replies from loops; its win rates crown nobody"
    figures = {"0.1": [0.91, 0.92, 0.93], "0.3": [0.51, 0.52, 0.53]}
    assert len(said(section(material_of(*sweep(figures))), "good")) == 1
    doubted = [replace(run, summary={**run.summary, "doubts": [doubt]}) for run in sweep(figures)]
    found = section(material_of(*doubted))
    assert said(found, "good") == [] and "It beats algo.beta=0.3." in said(found, "warning")[0]
    [line] = said(found, "bad")
    assert line.endswith(f": {doubt}.") and all(run.title in line for run in doubted)
