"""Tests of `psychocounsel agreement`: written files, printed lines and refused input."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.experts import settings
from psychocounsel.experts.agreement import report
from psychocounsel.experts.settings import read_agreement
from tests.support.harness import cli

SECRET = "I told nobody but you"


def rows() -> list[dict[str, Any]]:
    """Return forty items of two raters. They agree on 34 and prefer opposite replies on 3. One calls 2 a tie and 1 harmful."""
    second = ["left"] * 34 + ["right"] * 3 + ["tie"] * 2 + ["harmful"]
    made = []
    for number, choice in enumerate(second):
        common = {"item": f"i{number:02}", "speech": f"s{number // 2:02}", "label": "left", "comment": SECRET}
        common["risk"] = "high" if number % 2 else "low"
        turned = number % 3 == 0 and number < 34  # both raters chose the reply with the other label
        own = "right" if turned else "left"
        made.append({**common, "rater": "e1", "choice": own})
        made.append({**common, "rater": "e2", "choice": own if number < 34 else choice})
    made.append({**made[68], "rater": "e9", "choice": "right"})  # a third rater settles item 34
    made += [{**made[0], "repeat": 1}, {**made[2], "repeat": 1, "choice": "right"}]
    return made


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "mine" / "answers.jsonl"
    file.parent.mkdir()
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return file


def test_a_table_gives_figures_and_a_list_to_adjudicate(table: Path, tmp_path: Path) -> None:
    said = cli(
        "agreement", f"data={table.parent}", "agreement.samples=100", "agreement.adjudicators=[e9]", cwd=tmp_path
    ).stdout
    assert "83 answers by 3 raters about 40 items of 20 speeches; sides=shown, ties=category, harmful=category" in said
    assert "7 items need adjudication" in said
    found = json.loads((table.parent / "agreement" / "agreement.json").read_text())
    parts = {(each["part"], each["about"]): each for each in found["parts"]}
    whole = parts["choices", "all"]
    assert (whole["items"], whole["speeches"], whole["raters"]) == (40, 20, 2)
    assert whole["figures"]["raw"]["value"] == pytest.approx(34 / 40)
    assert whole["figures"]["raw"]["low"] < 34 / 40 < whole["figures"]["raw"]["high"]
    assert {about for part, about in parts if part == "choices"} == {"all", "risk=high", "risk=low"}
    assert {about for part, about in parts if part == "label"} == {"e1", "e2"}
    assert parts["repeats", "e1"]["figures"]["raw"]["value"] == 0.5
    with (table.parent / "agreement" / "disagreements.csv").open() as file:
        listed = list(csv.DictReader(file))
    assert [row["kind"] for row in listed] == ["harmful", *["sides"] * 3, *["tie"] * 2, "own repeat"]
    assert json.loads(listed[1]["settled"]) == {"e9": "right"}
    everything = said + (table.parent / "agreement" / "agreement.json").read_text() + str(listed)
    assert SECRET not in everything and "NaN" not in everything


@pytest.mark.slow
def test_the_same_table_gives_the_same_file(table: Path, tmp_path: Path) -> None:
    made = []
    for out in ("one", "two"):
        cli("agreement", f"data={table}", f"out={out}", "agreement.samples=50", cwd=tmp_path)
        made.append((tmp_path / out / "agreement.json").read_bytes())
    assert made[0] == made[1]


def test_settings_that_do_not_suit_the_table_are_refused(table: Path, tmp_path: Path) -> None:
    def refused(*given: str) -> str:
        return cli("agreement", f"data={table}", *given, cwd=tmp_path, check_code=USER_ERROR).stderr

    assert "agreement.adjudicators: the table has no answer by e7" in refused("agreement.adjudicators=[e7]")
    assert "agreement.columns: itm: unknown name; choose from item, speech, rater" in refused(
        "agreement.columns={itm: id}"
    )
    assert "judge is missing; if the column has another name" in refused("agreement.columns={rater: judge}")
    table.write_text("".join(json.dumps({**row, "label": None}) + "\n" for row in rows()))
    assert "agreement.sides=label: no answer has a label; give agreement.sides=shown" in refused(
        "agreement.sides=label"
    )


def test_a_missing_library_is_named(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: None if name == "crowdkit" else object())
    with pytest.raises(UserError, match=r"crowdkit is not installed; run: pip install 'psychocounsel\[agreement\]'"):
        report.make_agreement(read_agreement([f"data={table}"]))


def test_plans_say_numbers_and_assumptions(tmp_path: Path) -> None:
    failures = cli("agreement", "plan.kind=failures", cwd=tmp_path).stdout
    assert failures.startswith("628 cases with at most 2 failures show a failure rate of at most 0.01 (one-sided 95 %)")
    assert "fewest cases: 299, all without failure" in failures
    alike = cli("agreement", "plan.kind=noninferiority", "plan.margin=0.1", cwd=tmp_path).stdout
    assert "approximate number: 62 (normal approximation of paired shares)" in alike
    kappa = cli("agreement", "plan.kind=kappa", "plan.per_speech=3", "plan.correlation=0.2", cwd=tmp_path).stdout
    assert "a design effect of 1.40" in kappa and "approximate" in kappa
