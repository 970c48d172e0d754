"""The blocks of `evaluation=reward` against figures computed from scores.jsonl."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import brier_score_loss, roc_auc_score

from psychocounsel.blocks.cells import Titled
from psychocounsel.blocks.kinds import Block
from psychocounsel.blocks.terminal import terminal_lines
from psychocounsel.data.rows import Example
from psychocounsel.evaluation.reward.comparison import ground_of
from psychocounsel.evaluation.reward.evaluation import PairScores, _curves, _figures, _write
from psychocounsel.evaluation.reward.show import RewardFigures, reward_blocks, reward_conclusions
from psychocounsel.storage.files import read_json
from tests.support.contests import contest
from tests.support.shown_blocks import chart, column, numbers, rows, said, tables, written

MODELS = ("sharp", "blunt")
TOPICS = ("grief", "work", "sleep")


def pairs(count: int) -> list[Example]:
    """Return pairs of clients that share no text."""
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(300)]
    return [
        Example(
            str(number),
            f"row {number}",
            [{"role": "user", "content": f"Client {number}: " + " ".join(rng.choice(words, 8))}],
            [" ".join(rng.choice(words, size)) for size in rng.integers(5, 12, 2)],
            topic=TOPICS[number % 3],
            risk="self_harm" if number % 5 == 0 else "none",
        )
        for number in range(count)
    ]


def evaluated(folder: Path, names: tuple[str, ...], count: int = 90, too_long: int = 0) -> Titled[RewardFigures]:
    """Return the figures in a directory of `evaluation=reward`, written by the evaluation from rewards drawn here."""
    examples, rng = pairs(count), np.random.default_rng(1)
    ground = ground_of(examples, True, lambda line: None)
    scores = []
    for place, name in enumerate(names):
        raw = rng.normal(0, 1, (count, 2)).astype(np.float32) + np.array([1 - place / 2, 0], np.float32)
        if place:
            raw[:too_long] = np.nan
        margins = (raw[:, 0] - raw[:, 1]).astype(np.float64)
        reading = {"own": margins, "swapped": rng.normal(0, 1, count), "removed": rng.normal(0, 1, count)}
        scores.append(PairScores(name, raw, raw, reading))
    folder.mkdir(parents=True)
    config = contest("evaluation=reward", f"reward.name={names[0]}")
    _write(folder, examples, scores, {}, _figures(config, examples, ground, scores, {}), _curves(scores))
    written: Any = [read_json(folder / name) for name in ("summary.json", "reliability.json")]
    return Titled(folder.name, RewardFigures(names[0], *written))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reward") / "compared"


@pytest.fixture(scope="module")
def compared(folder: Path) -> Titled[RewardFigures]:
    return evaluated(folder, MODELS)


@pytest.fixture(scope="module")
def found(compared: Titled[RewardFigures]) -> list[Block]:
    return reward_blocks([compared])


def margins_of(folder: Path) -> dict[str, np.ndarray]:
    """Return chosen minus rejected reward of each pair, from scores.jsonl alone."""
    lines = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    return {name: np.array([line["chosen"][name] - line["rejected"][name] for line in lines]) for name in MODELS}


def both_orders(margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p = 1 / (1 + np.exp(-margins))
    return np.concatenate([p, 1 - p]), np.repeat([1, 0], len(p))


def test_figures_are_those_of_the_scores(folder: Path, compared: Titled[RewardFigures], found: list[Block]) -> None:
    table, raw = rows(found, "reward-models"), margins_of(folder)
    assert column(table, "reward model") == [*MODELS] and set(column(table, "pairs")) == {"90"}
    models = compared.figures.summary["compare"]["models"]
    for row in table:
        margins, wrote = raw[row["reward model"]], models[row["reward model"]]
        p, labels = both_orders(margins)
        expected = {
            "accuracy": (margins > 0).mean(),
            "AUC": roc_auc_score(labels, p),
            "Brier": brier_score_loss(labels, p),
            "ECE": np.abs(np.bincount((p * 10).astype(int), p - labels, 10)).sum() / len(p),
        }
        for heading, value in expected.items():
            assert numbers(row[heading])[0] == pytest.approx(value)
        for heading, key in zip([*row][4:], ("accuracy", "auc", "ece", "brier"), strict=True):
            assert numbers(row[heading]) == (wrote[key], wrote[f"{key}_low"], wrote[f"{key}_high"]), heading
    for row in rows(found, "reward-calibration"):
        wrote = models[row["reward model"]]
        for heading, key in zip(
            [*row][3:], ("ece_adaptive", "calibration_slope", "calibration_intercept"), strict=True
        ):
            assert numbers(row[heading]) == (wrote[key], wrote[f"{key}_low"], wrote[f"{key}_high"]), heading


def test_reliability_and_risk_are_drawn_from_the_margins(folder: Path, found: list[Block]) -> None:
    drawn = chart(found, "reliability")
    assert drawn.diagonal and [curve.title for curve in drawn.curves] == [*MODELS]
    for curve, margins in zip(drawn.curves, margins_of(folder).values(), strict=True):
        p, labels = both_orders(margins)
        bins = (p * 10).astype(int)
        held = np.unique(bins)
        [(axis, places)] = curve.x.items()
        assert axis == "predicted probability that the reply is preferred"
        np.testing.assert_allclose(places, [p[bins == each].mean() for each in held])
        np.testing.assert_allclose(curve.y, [labels[bins == each].mean() for each in held])
        for each, low, high in zip(held, curve.low or (), curve.high or (), strict=True):
            wilson = binomtest(int(labels[bins == each].sum()), int((bins == each).sum())).proportion_ci(
                method="wilson"
            )
            assert (low, high) == pytest.approx((wilson.low, wilson.high))
        assert (curve.labels or [""])[0].startswith(f"{(bins == held[0]).sum()} predictions from ")
    for curve, margins in zip(chart(found, "risk-coverage").curves, margins_of(folder).values(), strict=True):
        right = (margins > 0)[np.argsort(-np.abs(margins))]
        kept = sorted({int(np.ceil(round(share * 0.9, 9))) for share in range(1, 101)})
        np.testing.assert_allclose(curve.y, [right[:count].mean() for count in kept])
        np.testing.assert_allclose(curve.x["share of pairs judged"], np.array(kept) / 90)


def test_differences_are_paired_and_carry_holm(
    folder: Path, compared: Titled[RewardFigures], found: list[Block]
) -> None:
    [row] = rows(found, "reward-comparisons")
    raw = margins_of(folder)
    assert (row["reward model"], row["minus"], row["pairs"]) == ("blunt", "sharp", "90")
    assert numbers(row["accuracy"])[0] == pytest.approx((raw["blunt"] > 0).mean() - (raw["sharp"] > 0).mean())
    wrote = compared.figures.summary["compare"]["models"]["blunt"]["differences"]
    for heading, key in (("accuracy", "accuracy"), ("AUC", "auc"), ("ECE", "ece"), ("Brier", "brier")):
        assert numbers(row[heading]) == written(wrote[key])
    assert (row["p"].value, row["Holm p"].value) == (wrote["accuracy"]["p"], wrote["accuracy"]["p_adjusted"])


def test_slices_hold_the_pairs_that_they_name(folder: Path, found: list[Block]) -> None:
    table = {(row["kind"], row["slice"]): row for row in rows(found, "reward-slices")}
    won = margins_of(folder)["sharp"] > 0
    for place, topic in enumerate(TOPICS):
        row = table["topic", topic]
        assert numbers(row["accuracy"])[0] == pytest.approx(won[place::3].mean())
        assert (row["pairs"], row["named by"], row["note"]) == ("30", "column", "")
    crisis = table["crisis", "yes"]
    assert numbers(crisis["accuracy"])[0] == pytest.approx(won[::5].mean())
    assert (crisis["pairs"], crisis["note"]) == ("18", "few components")


def test_baselines_stand_beside_and_say_who_reads(
    folder: Path, compared: Titled[RewardFigures], found: list[Block]
) -> None:
    table = {(row["judged by"], row["speech shown"]): row for row in rows(found, "reward-baselines")}
    wrote = compared.figures.summary
    own = numbers(table["reward model sharp", "the client's own speech"]["accuracy"])
    assert own[0] == pytest.approx((margins_of(folder)["sharp"] > 0).mean())
    gain = numbers(table["reward model sharp", "another client's speech"]["gain of own speech"])
    assert gain == written(wrote["reading"]["sharp"]["gains"]["swapped"], "gain")
    assert numbers(table["word 1-2-grams", "replies only"]["accuracy"]) == written(
        wrote["baselines"]["blind"]["words"], "accuracy"
    )
    [reads] = [line for line in said(found, "good") if "sharp" in line]
    assert reads.startswith(
        f"the reward model sharp reads the client's speech: its accuracy changes by {100 * gain[0]:+.1f}"
    )
    (conclusion,) = reward_conclusions(compared.figures)
    assert conclusion.text.endswith(f"of the pairs. T{reads[1:]}"), "the answer that the terminal shows"


def test_pairs_that_a_model_cannot_score_are_told_apart(tmp_path: Path) -> None:
    run = evaluated(tmp_path / "part", MODELS, too_long=10)
    blocks = reward_blocks([run])
    table = rows(blocks, "reward-models")
    found = [(row["reward model"], row["pairs"]) for row in table]
    assert found == [("sharp, all pairs", "90"), ("sharp", "80"), ("blunt", "80")]
    note = "models are compared on the pairs that all of them judged; 10 pairs are left out"
    assert f"  * {note}" in [*terminal_lines(blocks)]
    summary: Any = run.figures.summary
    summary["compare"]["models"]["blunt"]["outcomes"] = {"text": 70, "equal": 2, "other_model": 7, "refused": 1}
    summary["compare"]["warnings"] = ["warning: it judges itself"]
    summary["reading"]["blunt"] = None
    lines = [*terminal_lines(reward_blocks([run]))]
    odd = "blunt: calls without a verdict: 7 other_model, 1 refused; these pairs are excluded for all models"
    assert f"  * {odd}" in lines and lines[-1] == "warning: it judges itself"
    unknown = "no pair with another client's speech fits blunt's length, so its use of the speech is unknown."
    assert f"warning: {unknown}" in lines


def test_one_model_has_no_comparison_and_two_evaluations_stand_in_one_table(
    tmp_path: Path, compared: Titled[RewardFigures]
) -> None:
    alone = evaluated(tmp_path / "alone", ("sharp",), 40)
    assert "reward-comparisons" not in tables(reward_blocks([alone]))
    both = reward_blocks([alone, compared])
    assert column(rows(both, "reward-models"), "evaluation") == ["alone", "compared", "compared"]
    titles = [curve.title for curve in chart(both, "reliability").curves]
    assert titles == ["alone: sharp", "compared: sharp", "compared: blunt"]
