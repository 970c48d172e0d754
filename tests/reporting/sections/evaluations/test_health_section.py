"""Tests of the health section against counts from replies.parquet and the intervals in figures.json."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from psychocounsel.evaluation.contestants import step
from psychocounsel.evaluation.health import figures_step
from psychocounsel.reporting.blocks import Section
from psychocounsel.reporting.material import EVALUATION, RunMaterial
from psychocounsel.reporting.sections.evaluations.health_section import section
from psychocounsel.storage.files import read_json
from tests.reporting.sections.evaluations.shown import chart, material, numbers, rows, run_of, said, written
from tests.support.contests import contest, context, data, replies


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> RunMaterial:
    """Every third reply of `mine` ends with a question. Replies of the base are one word longer."""
    folder = tmp_path_factory.mktemp("health")
    mine = replies(
        folder / "mine.jsonl", lambda prompt: f"You said so, {'truly?' if int(prompt[11:13]) % 3 == 0 else 'truly.'}"
    )
    base = replies(folder / "base.jsonl", lambda prompt: "You said it all so, truly.")
    config = contest("evaluation=health", *data(folder), f"model.path={mine}", f"against={base}")
    made = context(config, folder / "measured")
    step.run(made)
    figures_step.run(made)
    return run_of(folder / "measured", EVALUATION, "health", config)


@pytest.fixture(scope="module")
def found(measured: RunMaterial) -> Section:
    return section(material(measured))


def texts(run: RunMaterial, setting: str) -> list[str]:
    return [row["text"] for row in pq.read_table(run.path / "replies.parquet").to_pylist() if row["setting"] == setting]


def test_figures_are_those_of_the_replies(measured: RunMaterial, found: Section) -> None:
    shares = {(row["contestant"], row["figure"]): row for row in rows(found, "health-shares")}
    measures = {(row["contestant"], row["figure"]): row for row in rows(found, "health-measures")}
    for name in ("mine", "base"):
        own = texts(measured, name)
        asking = shares[name, "ends with a question"]
        assert numbers(asking["value"])[0] == pytest.approx(sum(text.endswith("?") for text in own) / len(own))
        assert (asking["speeches"], asking["replies"]) == ("12", "12")
        words = numbers(measures[name, "words"]["value"])[0]
        assert words == pytest.approx(sum(len(text.split()) for text in own) / len(own))
    [variant] = read_json(measured.path / "figures.json")["variants"]
    wrote = variant["settings"]["mine"]
    assert numbers(shares["mine", "ends with a question"]["value"]) == written(
        wrote["figures"]["question_ending"], "mean"
    )
    limits = {each["name"]: each for each in wrote["limits"]}
    row = shares["mine", "refusal"]
    assert (row["limit"].value, row["verdict"]) == (limits["refusal"]["limit"], limits["refusal"]["verdict"])
    assert ("mine", "cut at max_tokens") in shares, "files of replies do not record this: the value is missing"
    assert shares["mine", "cut at max_tokens"]["value"] is None


def test_the_chart_shows_the_shares_at_their_names(measured: RunMaterial, found: Section) -> None:
    drawn = chart(found, "health")
    for curve in drawn.curves:
        own = texts(measured, curve.title)
        by_name = {drawn.ticks[round(place)]: value for place, value in zip(curve.x["figure"], curve.y, strict=True)}
        assert by_name["ends with a question"] == pytest.approx(sum(text.endswith("?") for text in own) / 12)
        assert "cut at max_tokens" not in by_name
    assert {curve.title for curve in drawn.curves} == {"mine", "base"}


def test_differences_are_paired_by_speech(measured: RunMaterial, found: Section) -> None:
    words = next(row for row in rows(found, "health-differences-measures") if row["figure"] == "words")
    lengths = [[len(text.split()) for text in texts(measured, name)] for name in ("mine", "base")]
    change = [mine - base for mine, base in zip(*lengths, strict=True)]
    assert numbers(words["difference"])[0] == pytest.approx(sum(change) / 12)
    [variant] = read_json(measured.path / "figures.json")["variants"]
    assert numbers(words["difference"]) == written(variant["against"]["base"]["words"], "difference")
    assert (words["model"], words["minus"], words["speeches"], words["verdict"]) == ("mine", "base", "12", "differs")
    asking = next(row for row in rows(found, "health-differences-shares") if row["figure"] == "ends with a question")
    assert numbers(asking["difference"])[0] == pytest.approx(4 / 12)
    assert asking["model's"].value == pytest.approx(4 / 12) and asking["base's"].value == 0


def test_warnings_of_the_evaluation_are_shown(measured: RunMaterial, tmp_path: Path) -> None:
    figures = dict(measured.figures) | {"warnings": ["warning: mine: loops, above the limit"]}
    run = run_of(tmp_path, EVALUATION, "health", figures=figures, title="again")
    assert said(section(material(run)), "warning") == ["again: mine: loops, above the limit"]
