"""Bad rows are dropped and listed, odd rows get warnings, and every kind of file gives the same rows."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.data.selection.select import load_split
from psychocounsel.data.sources import load_examples
from psychocounsel.data.tokenise import tokenise
from psychocounsel.errors import UserError
from psychocounsel.settings.config import check, compose
from tests.support.harness import write_jsonl

PAIR = {"prompt": "I can't sleep.", "chosen": "What keeps you awake?", "rejected": "Just relax."}


def rows(count: int) -> list[dict[str, Any]]:
    return [{**PAIR, "prompt": f"Day {number}."} for number in range(count)]


def said_of(file: Path, *overrides: str) -> tuple[int, list[str]]:
    """Return the number of rows, and the reported lines."""
    lines: list[str] = []
    config = check(compose(["data=local", f"data.path={file}", "data.dev_fraction=0", *overrides]))
    return sum(map(len, load_split(config.data, lines.append))), lines


def test_bad_rows_are_dropped_counted_and_listed(tmp_path: Path) -> None:
    bad = [{**PAIR, "chosen": " "}] * 25
    file = write_jsonl(tmp_path / "rows.jsonl", [*rows(10), *bad])
    with pytest.raises(UserError, match=r"rows.jsonl line 11: chosen is empty"):
        said_of(file)
    count, lines = said_of(file, "data.bad_rows=drop")
    assert count == 10
    assert "25 bad rows dropped (data.bad_rows=drop)" in lines[0]
    assert lines[1] == "  rows.jsonl line 11: chosen is empty"
    assert lines[-1] == "  and 5 more" and len(lines) == 22


def test_lines_that_are_no_json_are_dropped_too(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n{\n" for row in rows(4)))
    assert said_of(file, "data.bad_rows=drop")[0] == 4


def test_rows_that_the_algorithm_cannot_use_are_dropped_when_asked() -> None:
    from psychocounsel.model.tokenizer import load_chat_format

    _, chat = load_chat_format(check(compose([])).model)
    (first,) = load_split(check(compose(["data.limit=1", "data.dev_fraction=0"])).data, print)[0]
    single = first.__class__(**{**vars(first), "replies": first.replies[:1], "where": "row 9"})
    lines: list[str] = []
    found = tokenise([first, single], chat, "pairs", 1024, report=lines.append, drop_bad=True)
    assert len(found) == 1
    assert lines == [
        "warning: chat template: 1 bad rows dropped (data.bad_rows=drop)",
        "  row 9: has only one reply, not a pair; use algo=sft, or data with chosen and rejected",
    ]


@pytest.mark.parametrize(
    ("odd", "warning"),
    [
        ({}, "1 of 12 rows are the same as an earlier one"),
        ({"chosen": "a\0b"}, "1 of 12 rows hold NUL bytes"),
        (
            {"prompt": [{"role": "user", "content": "One."}, {"role": "user", "content": "Two."}]},
            "1 of 12 rows hold two client turns in a row",
        ),
    ],
)
def test_odd_rows_are_warned_of_and_kept(odd: dict[str, Any], warning: str, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [*rows(11), {**rows(11)[3], **odd}])
    count, lines = said_of(file)
    assert count == 12
    assert [line for line in lines if line.startswith("warning: ") and line.endswith(warning)], lines
    assert len(lines) == 1


def test_one_row_is_warned_of_and_the_sample_is_not(tmp_path: Path) -> None:
    lines: list[str] = []
    load_split(check(compose(["data.limit=1"])).data, lines.append)
    assert "warning: only one training row is left" in lines
    lines.clear()
    load_split(check(compose([])).data, lines.append)
    assert not [line for line in lines if line.startswith("warning")]


def test_a_table_and_a_gzip_file_hold_the_same_rows_as_the_lines(tmp_path: Path) -> None:
    plain = write_jsonl(tmp_path / "rows.jsonl", rows(5))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "rows.json.gz").write_bytes(gzip.compress(json.dumps(rows(5)).encode()))
    for name, mark in (("rows.csv", ","), ("rows.tsv", "\t")):
        table = [list(PAIR), *([row[key] for key in PAIR] for row in rows(5))]
        (tmp_path / name).write_text("".join(mark.join(f'"{text}"' for text in line) + "\n" for line in table))
    expected = [(example.prompt, example.replies) for example in load_examples(str(plain), "train", None)]
    for name in ("rows.jsonl.gz", "rows.json.gz", "rows.csv", "rows.tsv"):
        found = load_examples(str(tmp_path / name), "train", None)
        assert [(example.prompt, example.replies) for example in found] == expected, name


def test_ratings_of_another_scale_are_read_when_it_is_given(tmp_path: Path) -> None:
    from psychocounsel.counsel.principles import PRINCIPLES

    rated = {
        f"{side}_{name}_rating": 10 if side == "chosen" else 0 for side in ("chosen", "rejected") for name in PRINCIPLES
    }
    file = write_jsonl(tmp_path / "rows.jsonl", [{**row, **rated} for row in rows(4)])
    with pytest.raises(UserError, match=r"line 1: chosen_empathy_rating must be from 1 to 5 \(data.rating_range\)"):
        said_of(file)
    assert said_of(file, "data.rating_range=[0,10]")[0] == 4
