"""Tests of the answer section: the best setting with its interval, and no claim that the runs do not support."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev, variance
from typing import Any

import pytest
from scipy.stats import t as student_t

from psychocounsel.blocks.conclusions import recorded, verdict_words
from psychocounsel.blocks.kinds import Chart
from psychocounsel.evaluation.health.figures import beyond, means
from psychocounsel.evaluation.health.reply import FIGURES as HEALTH
from psychocounsel.evaluation.health.reply import LIMITS
from psychocounsel.evaluation.health.show import health_conclusions
from psychocounsel.reporting.material import AUDIT, EVALUATION, RunMaterial, StudyMaterial
from psychocounsel.reporting.sections.answer import section
from psychocounsel.reporting.sections.comparisons import families
from psychocounsel.reporting.sections.overview import missing_section
from psychocounsel.reporting.sections.trade_offs import pareto_section
from tests.reporting.sections.shown import material_of, trained
from tests.support.shown_blocks import chart, rows, said, tables

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
        f"algo.beta=0.1 has the largest held-out accuracy, 72.5 % (mean of 4 seeds, 95 % interval {low} to {high} %)"
        in said(found)[0]
    )
    assert "whose scale depends on the settings of the algorithm" in said(found)[0]


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
    [verdict] = said(found, "undecided")
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
    [verdict] = said(found, "undecided")
    assert verdict == "Whether it beats algo.beta=0.3 is unknown, because a single run shows no spread over seeds."


def test_equal_seeds_show_no_spread_and_beat_nothing() -> None:
    found = section(material_of(*sweep({"0.1": [0.8, 0.8], "0.3": [0.6, 0.6]})))
    [row] = rows(found, "answer-comparisons-1")
    assert row["beaten"] == "not known" and "their runs show no spread" in said(found, "undecided")[0]
    assert "held-out accuracy, 80.0 % (the same in 2 seeds, so without a spread)" in said(found)[0]


def test_losses_of_one_kind_are_compared_and_the_smallest_is_best() -> None:
    runs = [trained({"algo.lr": lr}, seed, {"eval/loss": value}, algo={"lr": float(lr)})
            for lr, values in (("1e-4", [0.6, 0.62]), ("3e-4", [0.5, 0.53])) for seed, value in enumerate(values, 1)]  # fmt: skip
    assert "algo.lr=3e-4 has the smallest held-out loss, 0.515" in said(section(material_of(*runs)))[0]


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


def test_held_out_rewards_are_compared_only_if_one_reward_gave_them() -> None:
    def run(weight: int, beta: str, value: float) -> RunMaterial:
        reward = {
            "_target_": "LocalReward",
            "path": "/reward",
            "weights": {"safety": weight},
            "micro_batch_tokens": weight,
        }
        settings = {"reward.weights.safety": str(weight), "algo.beta": beta}
        return trained(
            settings, 1, {"eval/reward": value}, config={"reward": reward, "checkpoint": {"metric": "eval/reward"}}
        )

    material = material_of(
        run(1, "0.1", 0.2), run(1, "0.3", 0.4), run(16, "0.1", 7.0), run(16, "0.3", 0.1), run(4, "0.1", 9.0)
    )
    ranked = [
        ([setting.title for setting in family.settings], [family.values(setting)[0] for setting in family.settings])
        for family in families(material)
    ]
    assert [values for _, values in ranked] == [[0.4, 0.2], [7.0, 0.1], [9.0]]
    assert "only between runs with the same reward, because reward.weights differs" in said(section(material))[0]
    notes = [text for text in said(missing_section(material)) if "reward" in text]
    assert any(
        "compared only between runs with the same reward, because reward.weights differs" in text for text in notes
    )
    assert any(text.startswith("Without another setting") for text in notes)
    assert not any(isinstance(block, Chart) for block in pareto_section(material).blocks), (
        "no front over different rewards"
    )


def test_a_reward_model_is_not_compared_with_policies() -> None:
    reward = {"_target_": "psychocounsel.algo.reward.Reward"}
    runs = [
        trained({"algo": "dpo"}, 1, {"eval/accuracy": 0.6}),
        trained({"algo": "reward"}, 1, {"eval/accuracy": 0.9}, algo=reward),
    ]
    found = section(material_of(*runs))
    assert tables(found) == ["answer"]
    [reward_model] = [text for text in said(found) if text.startswith("The reward model algo=reward ranks 90.0 %")]
    [policy] = [text for text in said(found) if text.startswith("algo=dpo prefers the better reply in 60.0 %")]
    assert reward_model != policy


def test_gates_are_told_with_what_came_of_them() -> None:
    audit = RunMaterial(
        Path("/audit"), "audit", AUDIT, "", "refused", extra={"audit": {"gate": {"limit": 0.6, "verdict": "refused"}}}
    )
    marked = trained({}, 1, {"eval/reward": 1.0, "guard/kl": 1.0, "guard/length_ratio": 0.0})
    study = StudyMaterial(Path("/study"), "mine", ["a"], gates={"a": True, "b": None})
    found = section(material_of(audit, marked, studies=[study]))
    assert said(found, "good") == ["Gate a of study mine passed."]
    assert said(found, "bad") == [f"{marked.title} exceeds the limit of kl at its last evaluation.",
                                  "Gate of audit audit: refused (limit of the blind accuracy: 0.6)."]  # fmt: skip
    assert "Gate b of study mine has not been decided yet." in said(found, "undecided")


def test_settings_are_called_by_what_differs_among_those_compared() -> None:
    """Titles omit keys that differ only from runs compared by another metric."""
    figures = {"dpo": "eval/accuracy", "simpo": "eval/accuracy", "grpo": "eval/reward"}
    runs = [
        trained({"algo": algo, "steps": "8" if "acc" in metric else "6"}, 1, {metric: 0.5 + 0.1 * place})
        for place, (algo, metric) in enumerate(figures.items())
    ]
    assert "algo=simpo has the largest held-out accuracy" in said(section(material_of(*runs)))[0]


def test_a_figure_in_doubt_wins_nothing() -> None:
    doubt = "judge j prefers loops (90 %) to the best reply of the data; its win rates prove nothing"
    figures = {"0.1": [0.91, 0.92, 0.93], "0.3": [0.51, 0.52, 0.53]}
    assert len(said(section(material_of(*sweep(figures))), "good")) == 1
    doubted = [replace(run, summary={**run.summary, "doubts": [doubt]}) for run in sweep(figures)]
    found = section(material_of(*doubted))
    assert said(found, "good") == [] and "It beats algo.beta=0.3." in said(found, "warning")[0]
    [line] = said(found, "bad")
    assert line.endswith(f": {doubt}.") and all(run.title in line for run in doubted)


def health_run(shares: dict[str, tuple[float, float, float]]) -> RunMaterial:
    """Return `evaluation=health` with these means and intervals of the figures that have limits."""
    replies = {f"speech {number}": [dict.fromkeys(HEALTH, 0.0)] for number in range(71)}
    averages: Any = {name: {**mean} for name, mean in means(replies).items()}
    for name, (mean, low, high) in shares.items():
        averages[name] |= {"mean": mean, "low": low, "high": high}
    health: Any = {"prompts": 71, "replies": 71, "outcomes": {}, "figures": averages, "seeds": {}}
    health["limits"] = beyond(averages)
    variants = [{"length_limit": None, "settings": {"dpo": health}, "against": {}}]
    figures = {"evaluation": "health", "model": "dpo", "variants": variants, "warnings": []}
    return RunMaterial(Path("/h"), "h", EVALUATION, "health", "finished", figures=figures)


@pytest.mark.parametrize(
    ("high", "loops", "tone", "words"),
    [
        (0.05, (0.0, 0.0, 0.05), "undecided", "undecided for"),
        (0.001, (0.0, 0.0, 0.001), "good", "within all 11 limits"),
        (0.001, (0.3, 0.2, 0.4), "bad", "1 of 11 limits exceeded"),
    ],
)
def test_health_that_exceeds_nothing_is_healthy_only_if_every_limit_is_decided(
    high: float, loops: tuple[float, float, float], tone: str, words: str
) -> None:
    run = health_run({**dict.fromkeys(LIMITS, (0.0, 0.0, high)), "loop": loops})
    found = section(material_of(run))
    [line] = said(found, tone)
    assert words in line and "n = 71" in line
    assert [row["verdict"] for row in rows(found, "answer")] == [verdict_words({"verdicts": recorded(
        health_conclusions(run.figures))})]  # fmt: skip
    assert ("368 without a fault" in " ".join(said(found, "plain"))) == (tone == "undecided")


@pytest.mark.parametrize(
    ("low", "high", "tone"), [(0.451, 0.676, "undecided"), (0.52, 0.68, "good"), (0.3, 0.45, "bad")]
)
def test_a_reward_model_at_chance_is_undecided(low: float, high: float, tone: str) -> None:
    figures = {
        "eval/accuracy": (low + high) / 2,
        "eval/accuracy_low": low,
        "eval/accuracy_high": high,
        "eval/loss": 0.6,
    }
    reward = {"_target_": "psychocounsel.algo.reward.Reward"}
    found = section(material_of(trained({}, 1, figures, algo=reward)))
    [line] = said(found, tone)
    assert f"ranks {50 * (low + high):.1f} % ({100 * low:.1f} to {100 * high:.1f}) of held-out pairs rightly" in line
    assert ("undecided" in line) == (tone == "undecided")
    assert chart(found, "answer").reference == 50


def winrate_run(path: str) -> RunMaterial:
    rate = {"value": 0.9, "low": 0.83, "high": 0.96}
    overall = {"win_rate": rate, "shares": {}, "prompts": 71, "rows": 71, "unjudged": 0, "small": False}
    contest = {"overall": overall, "experts": {"together": None, "by_judge": {}}}
    figures = {
        "evaluation": "winrate",
        "model": "policy",
        "roles": {"r": ["was the reward model in the training of policy"]},
        "verdicts": {"r": {"text": 71}},
        "controls": {"limit": 0.1, "judges": {"r": {"loop": {"best": {"value": 0.9, "low": 0.8, "high": 1.0}}}}},
        "variants": [{"length_limit": None, "opponents": {"base": contest}}],
        "warnings": ["warning: the judge r was the reward model", "warning: judge r prefers loops (90 %)"],
    }
    config = {"judge": {"name": "r", "reward": {"path": path}}}
    return RunMaterial(Path("/w"), "w", EVALUATION, "winrate", "finished", config=config, figures=figures)


def test_a_win_rate_stands_with_what_is_known_of_its_judge(tmp_path: Path) -> None:
    gain = {"gain": -0.017, "low": -0.061, "high": 0.022}
    summary = {
        "metrics": {"accuracy": 0.603, "accuracy_low": 0.558, "accuracy_high": 0.647, "pairs": 174},
        "reading": {"r": {"gains": {"swapped": gain}}},
    }
    path = str(tmp_path / "model")
    judge = RunMaterial(
        Path("/j"),
        "j",
        EVALUATION,
        "reward",
        "finished",
        config={"reward": {"name": "r", "path": path}},
        summary=summary,
    )
    first = said(section(material_of(winrate_run(path), judge)), "warning")[0]
    assert first.startswith("policy against base: in doubt, it wins in 90.0 % (83.0 to 96.0) of 71 speeches. Judge: r.")
    assert "r itself ranks 60.3 % (55.8 to 64.7) of 174 pairs rightly, and gains -1.7 points" in first
    assert first.endswith("the judge r was the reward model\njudge r prefers loops (90 %)")
    alone = said(section(material_of(winrate_run(path))), "warning")[0]
    assert f"psychocounsel evaluate reward.path={path}" in alone


@pytest.mark.parametrize("summary", [{}, {"status": "stopped"}, {"metrics": None}, {"metrics": {"accuracy": 0.6}}])
def test_a_judge_whose_own_evaluation_has_no_figures_was_not_measured(
    summary: dict[str, object], tmp_path: Path
) -> None:
    path = str(tmp_path / "model")
    judge = RunMaterial(
        Path("/j"), "j", EVALUATION, "reward", "stopped", config={"reward": {"path": path}}, summary=summary
    )
    found = section(material_of(winrate_run(path), judge))
    assert f"psychocounsel evaluate reward.path={path}" in said(found, "warning")[0]


def test_a_win_is_in_doubt_if_the_judges_prefer_the_model_to_the_best_reply(tmp_path: Path) -> None:
    run = winrate_run(str(tmp_path))
    fault = "the judges prefer policy to the best reply of the data in 62.5 % (49.1 to 74.2) of the speeches: this is a fault"
    quiet = {"limit": 0.1, "judges": {"r": {"loop": {"best": {"value": 0.0, "low": 0.0, "high": 0.09}}}}}
    run.figures.update(roles={}, controls=quiet, warnings=[])
    assert said(section(material_of(run)), "good")[0].startswith("policy wins against base")
    run.figures["variants"][0]["anchors"] = {
        "policy": {"best": {"plain": {"value": 0.625, "low": 0.491, "high": 0.742}}}
    }
    run.figures["warnings"] = [f"warning: {fault}"]
    (line,) = [text for text in said(section(material_of(run)), "warning") if "against base: in doubt" in text]
    assert fault in line


def test_win_rates_against_different_opponents_or_by_different_judges_have_no_order(tmp_path: Path) -> None:
    runs = list[RunMaterial]()
    for name, opponent in (("a", "base"), ("b", "base"), ("c", "sft")):
        run = winrate_run(str(tmp_path))
        contest = run.figures["variants"][0]["opponents"].pop("base")
        run.figures["variants"][0]["opponents"][opponent] = contest
        settings = {"model.path": name}
        runs.append(
            replace(run, path=Path(f"/{name}"), title=name, settings=settings, summary={"metrics": {"win_rate": 0.9}})
        )
    found = [(family.name, len(family.runs)) for family in families(material_of(*runs))]
    assert found == [("evaluations (winrate against base)", 2), ("evaluations (winrate against sft)", 1)]
    several = [replace(run, figures={**run.figures, "variants": [{**run.figures["variants"][0]}]}) for run in runs[:2]]
    for run, order in zip(several, (("base", "sft"), ("sft", "base")), strict=True):
        run.figures["variants"][0]["opponents"] = dict.fromkeys(order, contest)
    found = [(family.name, len(family.runs)) for family in families(material_of(*several))]
    assert found == [("evaluations (winrate against base)", 1), ("evaluations (winrate against sft)", 1)], "the first"
    runs[1].figures["verdicts"] = {"strict": {"text": 71}}
    found = [(family.name, len(family.runs)) for family in families(material_of(*runs[:2]))]
    assert found == [("evaluations (winrate by r)", 1), ("evaluations (winrate by strict)", 1)]
