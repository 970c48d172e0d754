"""Tests of experts' agreement with expected values of items that are only rated, against values computed by hand."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.errors import UserError
from psychocounsel.experts.agreement.answers import AnswerFormat, read_answers
from psychocounsel.experts.agreement.report import make_agreement
from psychocounsel.experts.settings import read_agreement

EXPECTED = [1, 2, 3, 4]
# Each expert's action for each of four speeches, as a number; None: cannot tell.
SAID = {"e01": [1, 2, 3, 4], "e02": [1, 2, 4, 4], "e03": [1, 2, None, 4]}


def rows() -> list[dict[str, Any]]:
    return [
        {
            "item": f"s{number}",
            "rater": expert,
            "ratings": {"believable": 2} | ({} if said is None else {"expected_action": said}),
            "expected": {"expected_action": EXPECTED[number]},
        }
        for expert, given in SAID.items()
        for number, said in enumerate(given)
    ]


def made(folder: Path, *options: str, table: list[dict[str, Any]] | None = None) -> tuple[str, Any, list[Any]]:
    file = folder / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in table or rows()))
    said = make_agreement(read_agreement([f"data={folder}", "agreement.samples=0", *options]))
    parts = json.loads((folder / "agreement" / "agreement.json").read_text())["parts"]
    found = {(part["part"], part["about"]): part for part in parts}
    with (folder / "agreement" / "disagreements.csv").open() as listed:
        return "\n".join(said), found, list(csv.DictReader(listed))


def test_each_expert_beside_the_expected_action(tmp_path: Path) -> None:
    """e02 errs by one step of three on one speech of four.

    Observed disagreement: 1/4 of (1/3)^2. By chance: each of 1 to 4 (weight 1/4) against 1 (1/4), 2 (1/4) and 4 (1/2). Their mean
    squared distances are 3.5, 1.5 and 3.5: (3.5/4 + 1.5/4 + 3.5/2) / 9 = 1/3. Kappa is 1 - (1/36) / (1/3) = 11/12.
    """
    said, found, _ = made(tmp_path)
    kappas = {
        about: part["figures"]["weighted_cohen"]["value"] for (name, about), part in found.items() if name == "expected"
    }
    assert kappas == {
        "e01, expected_action": pytest.approx(1),
        "e02, expected_action": pytest.approx(11 / 12),
        "e03, expected_action": pytest.approx(1),
    }
    assert found["expected", "e02, expected_action"]["figures"]["raw"]["value"] == pytest.approx(3 / 4)
    assert found["expected", "e03, expected_action"]["items"] == 3
    assert "12 answers by 3 raters about 4 items of 4 speeches\n" in said and "sides=" not in said
    assert "Each rater and the dataset's expected values" in said and "0.75" in said and "0.92" in said


def test_experts_beside_each_other_on_the_ordinal_scale(tmp_path: Path) -> None:
    """Raw agreement: 1 on the first, second and fourth speech, 0 on the third, which two experts answered: mean 3/4."""
    _, found, listed = made(tmp_path)
    between = found["ratings", "expected_action"]
    assert between["figures"]["raw"]["value"] == pytest.approx(3 / 4)
    # e01 and e02 as above; e01 and e03, e02 and e03 agree on the three speeches that both answered.
    assert between["figures"]["weighted_cohen"]["value"] == pytest.approx((11 / 12 + 1 + 1) / 3)
    assert found["ratings", "believable"]["figures"]["raw"]["value"] == 1
    assert [(row["item"], row["kind"], row["label"]) for row in listed] == [("s2", "expected", "expected_action=3")]
    assert json.loads(listed[0]["choices"]) == {
        "e01": "expected_action=3",
        "e02": "expected_action=4",
        "e03": "expected_action=-",
    }


def test_an_adjudicator_settles_and_counts_in_no_figure(tmp_path: Path) -> None:
    more = {"item": "s2", "rater": "e09", "ratings": {"expected_action": 3}, "expected": {"expected_action": 3}}
    _, found, listed = made(tmp_path, "agreement.adjudicators=[e09]", table=[*rows(), more])
    assert not any("e09" in about for _, about in found)
    assert json.loads(listed[0]["settled"]) == {"e09": "expected_action=3"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expected": {"expected_action": 2}}, "an earlier row of this item has other values of expected"),
        ({"expected": {}}, "an earlier row of this item has other values of expected"),
        ({"expected": {"expected_action": 9}}, "the rating of expected_action must be a number from 1 to 5"),
        ({"expected": {"left": {"expected_action": 1}}}, "without sides"),
        ({"expected": [1]}, "expected must be an object"),
        ({"expected": "{"}, "expected must be a JSON object"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    table = [*rows()[:1], {**rows()[0], "rater": "e02", **change}]
    with pytest.raises(UserError, match=f"row 1: .*{message}"):
        read_answers([(f"row {number}", row) for number, row in enumerate(table)], AnswerFormat())
