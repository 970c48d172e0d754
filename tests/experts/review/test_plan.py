"""Tests of the choice of a review's kind of items, and of options without effect on it."""

from pathlib import Path

import pytest

from psychocounsel.errors import UserError
from psychocounsel.experts.page.serving import hold_review
from psychocounsel.experts.review.plan import fill_in_options, kind_of, open_plan
from psychocounsel.experts.review.protocol import DOCUMENTS
from psychocounsel.experts.settings import read_review
from psychocounsel.rundir.paths import ReviewDir
from tests.support.gate_files import gate_folder
from tests.support.harness import cli
from tests.support.reviewing import QUICK, pairs_file

IDLE = ("ratings=false", "safety=all", "flagged=true", "practice=0", "practice_share=0.5", "practice_rounds=3")


def test_the_plan_says_the_kind_or_else_the_data(tmp_path: Path) -> None:
    files, pairs = ReviewDir(tmp_path / "review"), str(pairs_file(tmp_path, 2))
    gate = str(gate_folder(tmp_path / "gate")) if (tmp_path / "gate").mkdir() is None else ""
    assert [kind_of(data, files).name for data in ("crisis_set", gate, pairs, "./crisis_set")] == [
        "crisis_set",
        "gate",
        "pairs",
        "pairs",
    ]
    files.path.mkdir()
    files.plan.write_text('{"settings": {}, "shown": {}}')  # written by a version with pairs only
    assert kind_of("crisis_set", files).name == "pairs"
    files.plan.write_text('{"kind": "gate", "settings": {}, "shown": {}}')
    assert kind_of(pairs, files).name == "gate"
    files.plan.write_text('{"kind": "essays"}')
    with pytest.raises(UserError, match="the kind of its items is unknown to this version"):
        kind_of(pairs, files)


@pytest.mark.parametrize("option", [*(f"review.{each}" for each in IDLE), "review={practice: 3}"])
def test_an_option_without_effect_on_cases_is_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(UserError, match=r"review\.\w+: no effect on speeches of a crisis set; leave it out"):
        hold_review(["data=crisis_set", "experts=[e01]", f"out={tmp_path / 'review'}", option])
    assert not (tmp_path / "review").exists()


@pytest.mark.parametrize(
    ("data", "title", "practice", "items"),
    [
        ("crisis_set", "What does this client need?", 0, 100),
        ("gate", "Is this client in good hands?", 0, 100_000),
        ("pairs.jsonl", "Which reply helps this client more?", 8, 100),
    ],
)
def test_defaults_are_those_of_the_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, title: str, practice: int, items: int
) -> None:
    monkeypatch.chdir(tmp_path)
    pairs_file(tmp_path, 2)
    (tmp_path / "gate").mkdir()
    gate_folder(tmp_path / "gate")
    line = [f"data={data}", "experts=[e01]"]
    config = read_review(line)
    fill_in_options(config, line, kind_of(data, ReviewDir(tmp_path / "review")))
    assert (config.review.title, config.review.practice, config.review["items"]) == (title, practice, items)


def test_a_review_of_the_shipped_set_needs_a_folder() -> None:
    with pytest.raises(UserError, match="out is not set: the crisis set ships with the package; give out=FOLDER"):
        hold_review(["data=crisis_set", "experts=[e01]"])


@pytest.mark.parametrize("data", ["crisis_set", "gate"])
def test_the_protocol_speaks_of_cases(tmp_path: Path, data: str) -> None:
    (tmp_path / "gate").mkdir()
    gate_folder(tmp_path / "gate")
    cli("review", f"data={data}", "experts=[e01,e02]", "out=r", "review.protocol=protocol", cwd=tmp_path)
    texts = {name: (tmp_path / "protocol" / f"{name}.md").read_text() for name in DOCUMENTS}
    whole = " ".join(texts.values())
    for word in (
        "None",
        "{{",
        "practice items",
        "rounds of practice",
        "pairs",
        "two replies",
        "seven principles",
        "100000",
        "Sides",
    ):
        assert word not in whole
    assert ("All items, drawn" if data == "gate" else "100 items, drawn") in texts["preregistration"]


DAMAGED = {
    "plan.json": ["{", "[]", '{"kind": "pairs"}', '{"kind": "pairs", "settings": 3, "shown": {}}'],
    "items.jsonl": ["", "\xff", "3", "{", "[1]", '{"item": 3}', '{"item": ["a"]}', "[" * 9999],
    "links.json": ["{", "[]", "3", "{}", '{"e01": "a"}'],
    "overrides.txt": ["\xff"],
}


@pytest.mark.parametrize(("name", "content"), [(name, text) for name in DAMAGED for text in DAMAGED[name]])
def test_a_damaged_file_of_a_review_is_named(name: str, content: str, tmp_path: Path) -> None:
    typed = [f"data={pairs_file(tmp_path, 2)}", "experts=[e01,e02]", f"out={tmp_path / 'review'}", *QUICK]
    config, files = read_review(typed), ReviewDir(tmp_path / "review")
    files.path.mkdir()
    fill_in_options(config, typed, kind_of(config.data, files))
    open_plan(config, files, print)
    (files.path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"restore|is no"):
        hold_review(typed)
    (files.path / name).unlink()
    (files.path / name).mkdir()
    with pytest.raises((UserError, OSError)):
        hold_review(typed)
