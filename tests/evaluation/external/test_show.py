"""Blocks of exams, prompts with criteria and general ability, against the raw tables."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from psychocounsel.blocks.cells import Titled
from psychocounsel.blocks.kinds import Block
from psychocounsel.blocks.terminal import terminal_lines
from psychocounsel.evaluation.external import figures_step, sets_step
from psychocounsel.evaluation.external.figures import ExamFigures, ExternalFigures
from psychocounsel.evaluation.external.show import external_blocks, external_conclusions
from psychocounsel.storage.files import read_json, write_json
from tests.support.annotating import model_server
from tests.support.contests import contest, context
from tests.support.harness import write_jsonl
from tests.support.scripted import completion
from tests.support.shown_blocks import column, numbers, rows, said, tables

QUESTIONS = [
    {
        "question": f"Question {n}?",
        "choices": [f"right {n}", f"wrong {n}", f"odd {n}"],
        "answer": "A",
        "topic": "ab"[n % 2],
    }
    for n in range(8)
]
CRITERIA = [
    {"criterion": "Asks", "points": 3, "name": "asks"},
    {"criterion": "Is short", "scale": [1, 5], "name": "short"},
]
PROMPTS = [{"prompt": f"Since week {number} I cannot sleep.", "criteria": CRITERIA} for number in range(4)]


def answer(payload: Any, number: int) -> Any:
    """Answer as `knows` (right on all questions but the last), `says_b` (always B) or a judge that likes questions."""
    text = payload["messages"][-1]["content"]
    if text == "Hello.":
        return None
    if payload["model"] == "j":
        asks = "What keeps you up?" in text
        said = {"criterion_1": {"reason": "So.", "met": asks}, "criterion_2": {"reason": "So.", "rating": 3}}
        return completion(json.dumps(said), payload)
    if "Question" not in text:
        return completion("What keeps you up?" if payload["model"] == "knows" else "Sleep.", payload)
    lines = text.split("\n\n")[-1].split("\n")
    right = next(line[0] for line in lines if ("wrong" if "Question 7" in text else "right") in line)
    return completion(right if payload["model"] == "knows" else "B", payload)


@pytest.fixture(scope="module")
def printed() -> list[str]:
    """Lines that the step `figures` printed."""
    return []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, printed: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("external")
    exam, rubric = write_jsonl(folder / "exam.jsonl", QUESTIONS), write_jsonl(folder / "rubric.jsonl", PROMPTS)
    with model_server(change=answer) as server:
        address = f"{server.address}/v1"
        config = contest(
            "evaluation=external", f"evaluation.sets=[{exam},{rubric}]", f"model.path={address}", "model.model=knows",
            f"against={{path: '{address}', model: says_b}}", "judge=local_vllm", "judge.model=j", f"judge.addresses=[{address}]",
        )  # fmt: skip
        files = context(config, folder / "measured", printed)
        sets_step.run(files)
    metric = {
        "value": 0.5,
        "stderr": 0.1,
        "higher_is_better": True,
        "documents": {str(n): float(n % 2) for n in range(8)},
    }
    worse = {**metric, "value": 0.0, "documents": dict.fromkeys(metric["documents"], 0.0)}  # type: ignore[call-overload]
    write_json(files.files.ability, {"knows": {"task": {"acc": worse}}, "says_b": {"task": {"acc": metric}}})
    del printed[:]
    figures_step.run(files)
    return folder / "measured"


@pytest.fixture(scope="module")
def figures(folder: Path) -> ExternalFigures:
    figures: Any = read_json(folder / "figures.json")
    return figures


@pytest.fixture(scope="module")
def blocks(figures: ExternalFigures) -> list[Block]:
    return external_blocks([Titled("", figures)])


def test_accuracy_is_that_of_the_answers(folder: Path, blocks: list[Block]) -> None:
    answers = pq.read_table(folder / "exams.parquet").to_pylist()
    table = {row["contestant"]: row for row in rows(blocks, "exams")}
    wrote = read_json(folder / "figures.json")["sets"]["exam"]["settings"]
    for name in ("knows", "says_b"):
        own = [row for row in answers if row["setting"] == name]
        right = [row["shown"][row["chosen"][0]] == 0 for row in own]
        row = table[name]
        assert numbers(row["accuracy"]) == (pytest.approx(sum(right) / len(right)), *wrote[name]["interval"])
        assert (row["items"], row["scored"], row["all answers"]) == ("8", "8", f"{len(own)} text")
        in_order = [hit for hit, each in zip(right, own, strict=True) if each["order"] == 0]
        assert numbers(row["in the file's order"])[0] == pytest.approx(sum(in_order) / 8)
    assert numbers(table["knows"]["accuracy"])[0] == 7 / 8 and numbers(table["says_b"]["chance"])[0] == pytest.approx(
        1 / 3
    )
    letters = {(row["contestant"], row["letter"]): row for row in rows(blocks, "exam-letters")}
    assert letters["says_b", "B"]["chosen"].value == 1
    assert column(rows(blocks, "exam-topics"), "items") == ["4"] * 4


def test_differences_to_the_base_are_paired_by_item(folder: Path, blocks: list[Block]) -> None:
    accuracy = {row["contestant"]: numbers(row["accuracy"])[0] for row in rows(blocks, "exams")}
    [row] = rows(blocks, "exam-differences")
    assert numbers(row["difference"])[0] == pytest.approx(accuracy["knows"] - accuracy["says_b"])
    wrote = read_json(folder / "figures.json")["sets"]["exam"]["against"]["knows"]
    assert (numbers(row["difference"])[1:], row["p"].value) == ((*wrote["interval"],), wrote["p"])
    assert (row["contestant"], row["minus"], row["items"]) == ("knows", "says_b", "8")


def test_scores_by_criteria_are_those_of_the_ratings(folder: Path, blocks: list[Block]) -> None:
    """The rubric has 3 points and a scale worth 1, whose middle counts 1/2."""
    table = {row["contestant"]: row for row in rows(blocks, "rubric-sets")}
    ratings = pq.read_table(folder / "ratings.parquet").to_pylist()
    for name in ("knows", "says_b"):
        values = [row["values"] for row in ratings if row["setting"] == name]
        wrote = read_json(folder / "figures.json")["sets"]["rubric"]["settings"][name]
        assert numbers(table[name]["score"]) == (wrote["score"], *wrote["interval"])
        assert (table[name]["items"], table[name]["ratings"]) == ("4", "4 text") and len(values) == 4
    assert numbers(table["knows"]["score"])[0] > numbers(table["says_b"]["score"])[0]
    slices = {
        (row["contestant"], row["kind"], row["slice"]): numbers(row["score"])[0]
        for row in rows(blocks, "rubric-slices")
    }
    assert slices["knows", "criterion", "asks"] == 1 and slices["says_b", "criterion", "asks"] == 0
    assert slices["knows", "criterion", "short"] == slices["says_b", "criterion", "short"] == 0.5
    [difference] = rows(blocks, "rubric-differences")
    assert difference["items better"] == "4" and difference["p"].value == 2 / 2**4


def test_general_ability_has_its_loss_and_no_invented_interval(blocks: list[Block]) -> None:
    table = {row["contestant"]: row for row in rows(blocks, "general-ability")}
    assert numbers(table["says_b"]["value"]) == (0.5, None, None) and table["says_b"]["difference"] is None
    change, low, high = numbers(table["knows"]["difference"])
    assert change == -0.5 and low is not None and high is not None and low < -0.5 < high < 0
    assert (table["knows"]["minus"], table["knows"]["paired documents"]) == ("says_b", "8")
    assert table["knows"]["verdict"] == "worse: the whole interval is a loss"


def test_what_was_not_measured_has_no_table(figures: ExternalFigures) -> None:
    assert external_blocks([Titled("", {**figures, "sets": {}, "ability": {}, "warnings": []})]) == []


def test_the_most_frequent_letter_is_named_if_an_item_has_one_right_choice(figures: ExternalFigures) -> None:
    exam: Any = figures["sets"]["exam"]
    [row, _] = rows(external_blocks([Titled("", figures)]), "exams")
    assert (row["most frequent letter"], row["always this letter"].value) == ("A", 1)
    without: ExamFigures = {**exam, "commonest_letter": {"letter": None, "accuracy": 0.0}}
    [row, _] = rows(external_blocks([Titled("", {**figures, "sets": {"exam": without}})]), "exams")
    assert "most frequent letter" not in row and "always this letter" not in row


def test_a_sentence_counts_the_items_that_are_scored(figures: ExternalFigures) -> None:
    exam: Any = figures["sets"]["exam"]
    failed = {**exam["settings"]["knows"], "scored_items": 5}
    sets: Any = {**figures["sets"], "exam": {**exam, "settings": {**exam["settings"], "knows": failed}}}
    first, second = external_conclusions({**figures, "sets": sets})
    assert " of 5 items of exam rightly" in first.text
    assert first.cautions[-1] == "3 of 8 items of exam have no scored answer, so they do not count"
    assert second.cautions == external_conclusions(figures)[1].cautions


def test_several_evaluations_share_the_tables(figures: ExternalFigures, blocks: list[Block]) -> None:
    warned: ExternalFigures = {**figures, "warnings": ["warning: beware"]}
    both = external_blocks([Titled("one", {**figures, "warnings": []}), Titled("two", warned)])
    assert said(both, "warning") == ["two: beware"]
    assert tables(both) == tables(blocks), "names of tables do not depend on the number of evaluations"
    assert column(rows(both, "exams"), "evaluation") == ["one", "one", "two", "two"]
    assert "evaluation" not in rows(blocks, "exams")[0]


def test_the_step_prints_a_sentence_for_each_set_and_writes_these_blocks(
    printed: list[str], blocks: list[Block], folder: Path
) -> None:
    assert (folder / "tables.txt").read_text() == "\n".join(terminal_lines(blocks)).strip() + "\n"
    assert printed[0].startswith(
        "knows answers 87.5 % (43.2 to 98.5) of 8 items of exam rightly (guessing: 33.3 %). Minus"
    )
    assert printed[1].startswith("knows earns ") and len(printed) < 10
