"""Tests of `psychocounsel review`: printed lines, refused input, its protocol, and commands that read its answers."""

import csv
import json
from pathlib import Path

import pytest

from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.evaluation.winrate.readers import read_experts
from psychocounsel.experts.page.serving import hold_review
from psychocounsel.experts.review.forgetting import refuse_served
from psychocounsel.experts.review.protocol import DOCUMENTS, GAP
from psychocounsel.experts.settings import read_review
from psychocounsel.rundir.paths import ReviewDir
from tests.support.harness import cli
from tests.support.reviewing import QUICK, answers, item_of, pairs_file, serving


@pytest.mark.slow
def test_answers_go_to_agreement_and_to_evaluate(tmp_path: Path) -> None:
    """One expert always prefers the good reply. The other one errs on every fourth item."""
    data = pairs_file(tmp_path, 12, at_risk=3)
    with serving(data, *QUICK, "review.repeats=0.25") as served:
        for expert in ("e01", "e02"):
            client = served.agree(expert)
            for number in range(15):
                page = client.get("").text
                left_is_good = page.index("Good reply") < page.index("Bad reply")
                errs = expert == "e02" and number % 4 == 0
                client.post(item_of(page), data={"choice": "left" if left_is_good != errs else "right", "seconds": "2"})
            assert "You have answered all items" in client.get("").text
        assert "Answers are in" in served.end()
    rows = answers(tmp_path / "review")
    assert len(rows) == 30 and sum(row["repeat"] for row in rows) == 6
    wrong = {row["item"] for row in rows if row["choice"] != row["label"] and not row["repeat"]}
    said = cli("agreement", f"data={tmp_path}", "agreement.samples=50", cwd=tmp_path).stdout
    assert "30 answers by 2 raters about 12 items of 12 speeches" in said
    found = json.loads((tmp_path / "review" / "agreement" / "agreement.json").read_text())
    whole = next(each for each in found["parts"] if each["part"] == "choices" and each["about"] == "all")
    assert whole["figures"]["raw"]["value"] == pytest.approx(1 - len(wrong) / 12)
    labels = {each["about"]: each["figures"]["raw"]["value"] for each in found["parts"] if each["part"] == "label"}
    assert labels == {"e01": 1.0, "e02": pytest.approx(1 - len(wrong) / 12)}
    judged = read_experts([str(tmp_path / "review" / "experts.jsonl")])
    assert {name: len(pairs) for name, pairs in judged.items()} == {"e01": 24, "e02": 24}


def test_the_page_asks_for_sense_and_harm_of_each_reply_if_that_is_typed(tmp_path: Path) -> None:
    data = pairs_file(tmp_path, 2)
    with serving(data, *QUICK, "review.sense=true", "review.ratings=false", "review.repeats=0") as served:
        client = served.agree("e01")
        page = client.get("").text
        assert page.count('name="rating.left.sense"') == page.count('name="safety.right.harm"') == 1
        assert "rating.left.empathy" not in page and "Could the reply harm this client" in page
        given = {"choice": "left", "rating.left.sense": "2", "rating.right.sense": "5", "safety.left.harm": "yes"}
        client.post(item_of(page), data=given | {"seconds": "2"})
        assert served.end()
    [pair] = [json.loads(line) for line in (tmp_path / "review" / "experts.jsonl").read_text().splitlines()]
    assert (pair["better"], pair["sense_a"], pair["sense_b"], pair["harm_a"]) == (
        "a",
        2,
        5,
        True,
    ) and "harm_b" not in pair
    file = str(tmp_path / "review" / "experts.jsonl")
    assert sorted(read_experts([file])["e01"].values()) == [-1, 1], "a harmful reply loses, whatever the reader chose"


def test_a_sheet_goes_out_and_comes_back_without_a_browser(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables name no writer; a filled one gives the answers that the page would give, once, and a wrong cell is named."""
    typed = [f"data={pairs_file(tmp_path, 6, at_risk=1)}", "experts=[e01,e02]", "review.sense=true", "review.repeats=0"]
    sheets, file = [*typed, "review.draw=even", f"review.sheet={tmp_path}/sheets"], tmp_path / "sheets" / "e01.csv"
    hold_review(sheets)
    assert "e01: 6 rows to answer in" in capsys.readouterr().out
    assert "`sense_a`, `sense_b`: from 1 to 5" in (tmp_path / "sheets" / "instructions.md").read_text()
    with open(file, newline="") as text:
        rows = [*csv.DictReader(text)]
    assert {*rows[0]} == {"number", "item", "client", "reply_a", "reply_b", "better", "comment"} | {
        f"{mark}_{side}" for mark in ("sense", "harm") for side in "ab"
    }
    for row in rows[:5]:
        row |= {"better": "A" if row["reply_a"].startswith("Good") else "B", "sense_a": "4", "harm_b": "yes"}
    rows[0]["better"] = "Both  harmful"
    rows[5]["sense_b"] = "3"

    def returned(delimiter: str) -> None:
        with open(file, "w", newline="") as text:
            writer = csv.DictWriter(text, [*rows[0]], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)

    returned(",")
    with pytest.raises(
        UserError, match=r"e01.csv row 6: sense_b is filled in and better is empty; write a, b, tie, both"
    ):
        hold_review(sheets)
    rows[5] |= {"sense_b": "", "better": ""}
    rows[1]["sense_a"] = "7"
    returned(",")
    with pytest.raises(UserError, match=r"e01.csv row 2: sense_a is 7; write 1, 2, 3, 4, 5"):
        hold_review(sheets)
    assert not answers(tmp_path / "review")
    rows[1]["sense_a"] = "2"
    returned(";")  # as a spreadsheet of another country saves it
    for _ in range(2):
        hold_review(sheets)
    assert "e01: 5 of 6 answered" in capsys.readouterr().out
    stored = answers(tmp_path / "review")
    assert len(stored) == 5 and not any(row["changed"] for row in stored)
    assert sum(row["choice"] == row["label"] for row in stored) == 4
    pairs = [json.loads(line) for line in (tmp_path / "review" / "experts.jsonl").read_text().splitlines()]
    assert [(pair["better"], pair["harm_a"], pair["harm_b"]) for pair in pairs if pair.get("harm_a")] == [
        ("tie", True, True)
    ]
    assert sorted(pair["sense_a"] for pair in pairs) == [2, 4, 4, 4, 4]
    rows[2]["comment"] = "x" * 5000
    returned(",")
    with pytest.raises(UserError, match="row 3: comment: A text may have at most 4,000 characters"):
        hold_review(sheets)
    rows[2] |= {"comment": "", "number": "\u00b2"}
    returned(",")
    with pytest.raises(UserError, match=r"row 3: number and item are not those of a row of e01's table"):
        hold_review(sheets)
    rows[2] |= {"number": "3.0", "sense_a": "4.0"}
    returned(",")
    hold_review(sheets)
    rows[2] |= {"number": "3", "item": rows[3]["item"]}
    returned(",")
    with pytest.raises(UserError, match=r"row 3: number and item are not those of a row of e01's table"):
        hold_review(sheets)
    (tmp_path / "sheets" / "instructions.md").write_text("My own notes.")
    with pytest.raises(UserError, match="instructions.md: holds another text"):
        hold_review(sheets)
    assert (tmp_path / "sheets" / "instructions.md").read_text() == "My own notes."


def test_what_it_says_at_the_start(tmp_path: Path) -> None:
    data = pairs_file(tmp_path, 12, at_risk=3)
    with serving(data, "review.items=5", "review.contact.name=Dr Kim", "review.support=Call 000.") as served:
        said = "\n".join(served.said)
    assert "5 items are drawn: 3 with a client at risk, 0 with a doubtful preference" in said
    assert "5 items for 2 experts. Send each link to its expert only:" in said
    assert "review.address=https://HOST/PATH" in said and "the consent text has gaps, marked [FILL: ...]" in said
    assert "review.contact.name is not set" not in said and "review.support is not set" not in said
    folder = tmp_path / "review"
    assert {path.stat().st_mode & 0o077 for path in (folder, *folder.glob("*.*"))} == {0}


def test_the_protocol_is_filled_from_the_settings_and_never_overwritten(tmp_path: Path) -> None:
    data = pairs_file(tmp_path, 12)
    options = (
        f"data={data}",
        "experts=[e01,e02,e03]",
        "review.overlap=2",
        "review.items=90",
        "review.protocol=protocol",
    )
    said = cli("review", *options, "review.contact.name=Dr Kim", cwd=tmp_path).stdout
    texts = {name: (tmp_path / "protocol" / f"{name}.md").read_text() for name in DOCUMENTS}
    for name, text in texts.items():
        assert f"{name}.md: {text.count(GAP)} gaps to fill in" in said
        assert "{{" not in text and "{%" not in text and "None" not in text
    assert "3 experts; 2 of them judge each item; 10 % of an expert's items are shown twice" in texts["preregistration"]
    assert "90 items, drawn with seed 0" in texts["preregistration"]
    assert (
        "Contact for reports of a person at risk: Dr Kim" in texts["consent"]
        and "There are about 66 items for you" in texts["consent"]
    )
    assert "Contact: Dr Kim" in texts["data_management"] and not (tmp_path / "review").exists()
    again = cli("review", *options, cwd=tmp_path, check_code=USER_ERROR).stderr
    assert "exists already and may have been filled in; give another review.protocol=FOLDER" in again


def test_a_filled_consent_text_and_support_from_files(tmp_path: Path) -> None:
    data = pairs_file(tmp_path, 4)
    (tmp_path / "consent.md").write_text("# Our study\n\nYou read <b>texts</b>.\n\n- one\n- two\n")
    (tmp_path / "support.md").write_text("Call Ada.")
    with serving(
        data, *QUICK, f"review.consent={tmp_path}/consent.md", f"review.support={tmp_path}/support.md"
    ) as served:
        page = served.client("e01").get("").text
        assert "<h2>Our study</h2>" in page and "<li>one</li><li>two</li>" in page
        assert "You read &lt;b&gt;texts&lt;/b&gt;." in page
        assert "<p>Call Ada.</p>" in served.client("e01").get("stop").text
        assert not any("[FILL" in line for line in served.said)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["experts=[e01]"], "data is not set: give data=FOLDER of annotate, evaluate or audit"),
        (["data=x"], r"experts is not set: give a pseudonym for each expert, as experts=\[e01,e02\]"),
        (["data=x", "experts=[ada@clinic.example]"], "is not a pseudonym"),
        (["data=x", "experts=[e01,e01]"], "is given twice"),
        (["data=x", "experts=[e01]", "review.overlap=2"], r"review\.overlap=2: only 1 expert can"),
        (
            ["data=x", "experts=[e01]", "review.adress=http://x"],
            r"unknown key review\.adress: did you mean review\.address",
        ),
        (
            ["data=x", "experts=[e01]", "review.address=study.example"],
            r"review\.address=study\.example: give the address",
        ),
        (["data=x", "experts=[e01]", "review.address=https://a:b@x"], r"review\.address"),
        (["data=x", "experts=[e01]", "review.contact.command=[mail]"], r"give review\.contact\.name=NAME"),
        (["data=x", "experts=[e01]", "review.repeats=2"], r"review\.repeats=2"),
        (["data=x", "experts=[e01]", "review.items=many"], r"review\.items=many: is not a value"),
        (["data=x", "experts=[e01]", "--port"], "--port: give KEY=VALUE"),
    ],
)
def test_options_that_cannot_be_are_refused(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_review(options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["review.consent=none.md"], r"review\.consent=none\.md: cannot be read \(No such file"),
        (["review.support=none.md"], r"review\.support=none\.md: cannot be read"),
        (["review.rubric=nowhere"], "nowhere"),
        (["review.only=none.csv"], r"none\.csv"),
    ],
)
def test_what_cannot_be_read_is_refused_and_leaves_no_folder(tmp_path: Path, options: list[str], message: str) -> None:
    data = pairs_file(tmp_path, 4)
    with pytest.raises(UserError, match=message):
        hold_review([f"data={data}", "experts=[e01]", *options])
    assert not (tmp_path / "review").exists()
    (tmp_path / "review").mkdir()
    with pytest.raises(UserError, match=message):
        hold_review([f"data={data}", "experts=[e01]", *options])
    assert (tmp_path / "review").is_dir(), "the folder is the user's own"


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    data = pairs_file(tmp_path, 4)
    with serving(data, f"out={tmp_path / 'one'}") as served:
        port = int(served.links["e01"].split(":")[2].split("/")[0])
        with pytest.raises(UserError, match=rf"review\.port={port}: cannot be opened"):
            hold_review([f"data={data}", "experts=[e01]", f"out={tmp_path / 'two'}", f"review.port={port}"])
        with pytest.raises(UserError, match="is serving this review; stop it, then remove speeches"):
            refuse_served(ReviewDir(tmp_path / "one"))


def test_confidential_data_go_to_no_host_that_their_settings_do_not_name(tmp_path: Path) -> None:
    folder = tmp_path / "prefs"
    folder.mkdir()
    (folder / "config.yaml").write_text("speeches: {confidential: true, allowed_hosts: [review.clinic.example]}\n")
    given = [f"data={folder}", "experts=[e01]"]
    with pytest.raises(UserError, match=r"is confidential and its allowed_hosts do not include study\.example"):
        hold_review([*given, "review.address=https://study.example/review"])
    rows = pairs_file(folder, 4)  # a file in the folder, and a link to it from elsewhere, are as confidential
    (tmp_path / "link.jsonl").symlink_to(rows)
    for data in (rows, tmp_path / "link.jsonl"):
        with pytest.raises(UserError, match="is confidential and its allowed_hosts do not include"):
            hold_review([f"data={data}", "experts=[e01]", "review.address=https://study.example/review"])
    rows.unlink()
    # This host is allowed, so the next check fails: reading the folder.
    with pytest.raises(UserError, match="this folder holds no pairs, crisis set or adjudicate.csv"):
        hold_review([*given, "review.address=https://review.clinic.example/x"])
    (folder / "config.yaml").write_text("speeches: {confidential: [")
    with pytest.raises(UserError, match="config.yaml cannot be read, so"):
        hold_review([*given, "review.address=https://review.clinic.example/x"])


def test_a_folder_of_somebody_else_names_no_program_and_is_refused_if_others_can_write_it(tmp_path: Path) -> None:
    data, folder = pairs_file(tmp_path, 4), tmp_path / "review"
    folder.mkdir(mode=0o700)
    made = tmp_path / "made"
    command = f"review.contact.command=[touch,{made}]"
    (folder / "overrides.txt").write_text(f"review.practice=0\n{command}\nreview.contact.name=Eve\n")
    with serving(data) as served:
        assert served.agree("e01").post("report", data={"said": "a street is named"}).status_code == 200
        assert "asks experts to contact Eve themselves" in "\n".join(served.said)
        served.end()
    assert not made.exists() and command not in (folder / "overrides.txt").read_text()
    folder.chmod(0o777)
    with pytest.raises(UserError, match="can be written by everyone"):
        hold_review([f"data={data}", "experts=[e01]"])


def test_an_event_of_another_review_is_named(tmp_path: Path) -> None:
    data = pairs_file(tmp_path, 4)
    with serving(data) as served:
        served.end()
    (tmp_path / "review" / "events.jsonl").write_text('{"time": "x", "expert": "e99", "kind": "answer"}\n')
    with pytest.raises(UserError, match=r"events\.jsonl: event 1 does not belong to this review"):
        hold_review([f"data={data}", "experts=[e01,e02]"])
