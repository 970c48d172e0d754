"""The report of agreement: differing ratings are listed, one rater is told why there is no figure, and half ties are shown."""

import csv
import json
from pathlib import Path
from typing import Any

from psychocounsel.experts.agreement.report import make_agreement
from psychocounsel.experts.settings import read_agreement


def made(folder: Path, rows: list[dict[str, Any]], *options: str) -> tuple[str, list[dict[str, str]]]:
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = make_agreement(read_agreement([f"data={folder}", "agreement.samples=0", *options]))
    with (folder / "agreement" / "disagreements.csv").open() as listed:
        return "\n".join(said), list(csv.DictReader(listed))


def rating(item: str, rater: str, **ratings: float) -> dict[str, Any]:
    return {"item": item, "rater": rater, "ratings": ratings}


def test_differing_ratings_are_listed_the_widest_first(tmp_path: Path) -> None:
    """Equal ratings, and ratings of which one rater gave none, are no disagreement; nor are ratings beside equal choices."""
    rows = [rating("same", rater, empathy=4, clarity=2) for rater in "ab"]
    rows += [rating("near", "a", empathy=4), rating("near", "b", empathy=3)]
    rows += [rating("far", "a", empathy=1, clarity=2), rating("far", "b", empathy=5, clarity=2)]
    rows += [rating("part", "a", empathy=4, clarity=2), rating("part", "b", empathy=4)]
    rows += [
        {"item": "pair", "rater": rater, "choice": "left", "ratings": {"left": {"empathy": value}}}
        for rater, value in (("a", 1), ("b", 5))
    ]
    said, listed = made(tmp_path, rows)
    assert [(row["item"], row["kind"]) for row in listed] == [("far", "ratings"), ("near", "ratings")]
    assert json.loads(listed[0]["choices"]) == {"a": "clarity=2, empathy=1", "b": "clarity=2, empathy=5"}
    assert "2 items need adjudication" in said


def test_no_cell_of_the_list_is_a_formula(tmp_path: Path) -> None:
    rows = [
        {"item": "=1+1", "rater": rater, "choice": choice, "topic": "@a"}
        for rater, choice in (("a", "left"), ("b", "right"))
    ]
    _, (row,) = made(tmp_path, rows)
    assert (row["item"], row["speech"], row["topic"]) == ("'=1+1", "'=1+1", "'@a")


def test_ratings_of_exchanged_sides_are_compared_by_reply(tmp_path: Path) -> None:
    def seen(rater: str, label: str, **ratings: int) -> dict[str, Any]:
        return {
            "item": "i",
            "rater": rater,
            "label": label,
            "ratings": {side: {"empathy": value} for side, value in ratings.items()},
        }

    _, listed = made(tmp_path, [seen("a", "left", left=5, right=2), seen("b", "right", left=2, right=5)])
    assert not listed
    _, listed = made(tmp_path, [seen("a", "left", left=5, right=2), seen("b", "right", left=5, right=2)])
    assert json.loads(listed[0]["choices"]) == {
        "a": "left empathy=5, right empathy=2",
        "b": "left empathy=2, right empathy=5",
    }


def test_one_rater_is_told_why_there_are_no_coefficients(tmp_path: Path) -> None:
    said, _ = made(tmp_path, [{"item": f"i{number}", "rater": "a", "choice": "left"} for number in range(3)])
    assert "3 answers by 1 rater about" in said and "No coefficients: no item has answers of two raters" in said


def test_ties_that_agree_by_half_are_shown(tmp_path: Path) -> None:
    """Raw agreement: 1 of 3 pairs of answers is equal; with half ties (1 + 1/2 + 0) / 3."""
    given = {"x": ("left", "left"), "y": ("left", "tie"), "z": ("left", "right")}
    rows = [
        {"item": item, "rater": rater, "choice": choice}
        for item, both in given.items()
        for rater, choice in zip("ab", both, strict=True)
    ]
    (head, figures), (plain_head, _) = (
        [line.split() for line in made(tmp_path, rows, option)[0].splitlines() if line.startswith("  ")]
        for option in ("agreement.ties=half", "agreement.ties=category")
    )
    assert " ".join(head[3:]) == "raw weighted raw weighted kappa AC2 weighted alpha" and figures[4:6] == [
        "0.33",
        "0.50",
    ]
    assert plain_head[3:] == ["raw", "kappa", "Fleiss", "AC1", "alpha"]
