"""Tests of the dataset section against counts from its tables. The dataset is made with two annotators on a test server."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.annotation.steps import directory, do_steps
from psychocounsel.blocks.kinds import Section
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.reporting.material import ANNOTATION, RunMaterial
from psychocounsel.reporting.reading.runs import dataset_counts
from psychocounsel.reporting.sections.datasets import section
from psychocounsel.steps.course import StepContext
from tests.reporting.sections.shown import material, run_of
from tests.support import annotating
from tests.support.annotating import model_server, models, speeches
from tests.support.composed import checked
from tests.support.scripted import completion
from tests.support.shown_blocks import chart, rows, said, tables

Row = dict[str, Any]


def sometimes(payload: Any, number: int) -> Any:
    """Change some answers: the second annotator refuses some ratings, and a writer sometimes replies with nothing."""
    asked = json.dumps(payload["messages"])
    if payload["model"] == "strict" and "river" in asked:
        return completion("I will not say.", payload)
    return completion("", payload) if payload["model"] == "writer1" and "silence" in asked[-900:] else None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunMaterial:
    """Run the steps of the annotate command in this process."""
    folder = tmp_path_factory.mktemp("dataset")
    file = speeches(folder / "speeches.jsonl", 16)
    with model_server(change=sometimes) as server:
        raters = ",".join(
            f"{{use: local_vllm, model: {name}, addresses: [{server.address}/v1]}}" for name in ("kind", "strict")
        )
        given = [
            "speeches=local",
            f"speeches.path={file}",
            "speeches.license=cc0-1.0",
            *models(server)[:2],
            "annotator=panel",
        ]
        given += [
            f"annotator.members=[{raters}]",
            f"out={folder}/made",
            f"paths.cache={folder}/cache",
            "replies.per_speech=2",
        ]
        given += ["pairs.test_fraction=0.2", "pairs.min_gap=0", "scores.repeat=0.5", "scores.retries=0"]
        config = checked(*given, name="annotate")
        do_steps(StepContext(config, directory(config), lambda line: None, lambda items, *_: items), lambda step: None)
    counts = {"counts": dataset_counts(folder / "made")}
    return run_of(folder / "made", ANNOTATION, config=config, extra=counts)


@pytest.fixture(scope="module")
def found(run: RunMaterial) -> Section:
    return section(material(run))


@pytest.fixture(scope="module")
def raw(run: RunMaterial) -> dict[str, list[Row]]:
    return annotating.tables(run.path)


def test_what_fell_is_told_with_its_step_and_reason(found: Section, raw: dict[str, list[Row]]) -> None:
    lost = {(row["step"], row["where"], row["reason"]): int(row["lost"]) for row in rows(found, "dataset-losses")}
    replies = Counter((f"writer {row['writer']}", row["outcome"]) for row in raw["replies"])
    votes = Counter((f"annotator {row['annotator']}", row["outcome"]) for row in raw["votes"])
    assert {key: number for key, number in replies.items() if key[1] != "text"} == {
        key[1:]: number for key, number in lost.items() if key[0] == "replies"
    }
    refused = {key: number for key, number in votes.items() if key[1] != "rated"}
    assert refused == {key[1:]: number for key, number in lost.items() if key[0] == "scores"} and refused
    steps = {row["step"]: row["rows"] for row in rows(found, "dataset-steps")}
    pairs = len(raw["dataset/train"]) + len(raw["dataset/test"])
    assert steps == {
        "speeches": "16",
        "replies": str(len(raw["replies"])),
        "scores": str(len(raw["votes"])),
        "pairs": str(pairs),
        "card": None,
    }


def test_pairs_and_the_agreement_of_votes_are_those_of_the_dataset(found: Section, raw: dict[str, list[Row]]) -> None:
    for row in rows(found, "dataset-pairs"):
        pairs = raw[f"dataset/{row['split']}"]
        tiers = Counter(each["agreement"] for each in pairs)
        assert row["pairs"] == str(len(pairs))
        assert (row["unanimous"], row["majority"], row["split votes"]) == tuple(
            str(tiers[tier]) for tier in ("unanimous", "majority", "split")
        )
        if pairs:
            assert row["clients"] == str(len({each["ID"] for each in pairs}))
    train = next(curve for curve in chart(found, "dataset-gaps").curves if curve.title == "train")
    assert sum(train.y) == len(raw["dataset/train"]) > 0
    kinds = {(row["kind"], row["value"]): row["training pairs"] for row in rows(found, "dataset-kinds")}
    assert kinds["language", "en"] == str(len(raw["dataset/train"]))


def test_ratings_are_counted_by_annotator_and_principle(found: Section, raw: dict[str, list[Row]]) -> None:
    table = {(row["annotator"], row["principle"]): row for row in rows(found, "dataset-ratings")}
    for name in ("kind", "strict"):
        own = [
            row for row in raw["votes"] if row["annotator"] == name and row["outcome"] == "rated" and not row["repeat"]
        ]
        for principle in PRINCIPLES:
            counts = Counter(row[f"{principle}_rating"] for row in own)
            assert [table[name, principle][str(rating)] for rating in range(1, 6)] == [
                str(counts[r]) for r in range(1, 6)
            ]
    votes = {row["annotator"]: row for row in rows(found, "dataset-votes")}
    assert votes["kind"]["votes"] == str(sum(row["annotator"] == "kind" for row in raw["votes"]))


def test_retest_is_that_of_the_votes_given_twice(found: Section, raw: dict[str, list[Row]]) -> None:
    table = {(row["annotator"], row["principle"]): row for row in rows(found, "dataset-retest")}
    own = {(row["reply"], row["repeat"]): row for row in raw["votes"] if row["annotator"] == "kind"}
    twice = [(own[reply, 0], row) for (reply, repeat), row in own.items() if repeat]
    for principle in PRINCIPLES:
        changes = [abs(first[f"{principle}_rating"] - second[f"{principle}_rating"]) for first, second in twice]
        row = table["kind", principle]
        assert row["replies rated twice"] == str(len(changes)) != "0"
        assert row["equal"].value == pytest.approx(changes.count(0) / len(changes))
        assert row["mean difference"].value == pytest.approx(sum(changes) / len(changes))


def test_missing_ratings_licences_and_the_card_are_told(
    run: RunMaterial, found: Section, raw: dict[str, list[Row]]
) -> None:
    missing = {(row["kind"], row["risk or topic"]): row for row in rows(found, "dataset-missing-ratings")}
    votes = [row for row in raw["votes"] if not row["repeat"]]
    assert missing["risk", "none"]["missing"].value == pytest.approx(
        sum(row["outcome"] != "rated" for row in votes) / len(votes)
    )
    licences = {row["what"]: (row["licence or terms"], row["rows"]) for row in rows(found, "dataset-licences")}
    assert next(licences[what] for what in licences if "speeches" in what) == ("cc0-1.0", "16")
    assert ("apache-2.0", str(sum(row["writer"] == "writer0" for row in raw["replies"]))) in licences.values()
    assert any("lacks card.lawful_basis" in line for line in said(found, "warning"))
    assert not said(found, "bad"), "these annotators are no demonstration"


def test_a_demonstration_and_missing_steps_are_told(run: RunMaterial, tmp_path: Path) -> None:
    steps = {name: dict(record) for name, record in run.extra["steps"].items() if name not in ("pairs", "card")}
    steps["scores"]["figures"] = {**steps["scores"]["figures"], "demonstration": ["rules"]}
    found = section(material(run_of(tmp_path, ANNOTATION, title="demo", extra={"steps": steps})))
    assert said(found, "bad") == [
        "demo: a demonstration. The ratings of rules come from simple rules that do not judge, so do not train on them."
    ]
    assert {"demo: the step pairs is not finished.", "demo: the step card is not finished."} <= {
        *said(found, "warning")
    }
    assert "dataset-pairs" not in tables(found) and "dataset-votes" in tables(found)
