"""Several jobs clean shares of the rows; the tables equal those of a single process."""

import random
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from psychocounsel.annotation.speeches import shares
from psychocounsel.annotation.speeches.shares import finished_shares, share_of_rows
from psychocounsel.annotation.steps import directory, do_steps
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.steps.course import StepContext
from tests.annotation.speeches.speech_files import jsonl, section, table
from tests.annotation.speeches.test_step import some

SHARDS = 3


def config_of(out: Path, share: int | None, shards: int, sources: list[dict[str, Any]]) -> DictConfig:
    out.mkdir(exist_ok=True)
    return OmegaConf.create(
        {
            "steps": ["speeches"],
            "out": str(out),
            "share": share,
            "shards": shards,
            "crisis_to_third_parties": False,
            "speeches": section(sources=sources, bad_rows="drop"),
            "pairs": {"test_fraction": 0.25, "split_seed": 0},
        }
    )


def done(out: Path, sources: list[dict[str, Any]], share: int | None = None, shards: int = SHARDS) -> list[str]:
    """Run the step in this process; returns the printed lines."""
    config, said = config_of(out, share, shards, sources), list[str]()
    files = directory(config)
    files.path.mkdir(parents=True, exist_ok=True)
    whole = (0, 1) if share is None else (share, shards)
    do_steps(StepContext(config, files, said.append, lambda items, *_, **__: items, whole), lambda step: None)
    return said


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Two sources with duplicates within and between them, bad rows, names, and rows that are too short."""
    monkeypatch.setattr(shares, "BLOCK", 4)
    draw = random.Random(0)
    forum = [{"id": f"f{number}", "text": f"My name is Anna. {some(number)}"} for number in range(26)]
    other = [{"id": f"o{number}", "text": some(draw.randrange(40))} for number in range(19)]
    other[3:5] = [{"id": "short", "text": "Help."}, {"id": "empty", "text": " "}]
    found = {"forum": forum, "other": other}
    return [
        {"name": name, "path": str(jsonl(tmp_path / f"{name}.jsonl", rows)), "license": "cc0-1.0", "language": "en"}
        for name, rows in found.items()
    ]


@pytest.mark.parametrize("count", [0, 1, 3, 7, 8, 9, 24, 25])
def test_every_row_is_of_one_share_and_in_order(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "BLOCK", 4)
    found = [list(share_of_rows(range(count), (index, SHARDS))) for index in range(SHARDS)]
    assert sorted(row for share in found for row in share) == list(range(count))
    assert all(share == sorted(share) for share in found)
    assert max(map(len, found)) - min(map(len, found)) <= 4


def test_shares_make_the_tables_of_one_process(
    tmp_path: Path, sources: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    done(tmp_path / "whole", sources, shards=1)
    out = tmp_path / "shared"
    for index in (2, 0, 1):
        done(out, sources, share=index)
    monkeypatch.setattr("psychocounsel.annotation.speeches.step.cleaned_rows", None)  # nothing is cleaned again
    said = done(out, sources)
    one, other = AnnotationDir(tmp_path / "whole"), AnnotationDir(out)
    assert table(one.speeches) == table(other.speeches) and len(table(one.speeches)) > 20
    assert table(one.dropped_speeches) == table(other.dropped_speeches)
    assert {"same text", "too short", "bad row"} <= {row["reason"] for row in table(other.dropped_speeches)}
    assert one.identifier_sample.read_text() == other.identifier_sample.read_text()
    assert any(line.startswith("identifiers replaced in ") and "26 NAME" in line for line in said), said


def test_a_missing_share_or_one_of_other_settings_is_not_used(tmp_path: Path, sources: list[dict[str, Any]]) -> None:
    out = tmp_path / "out"
    for index in range(SHARDS - 1):
        done(out, sources, share=index)
    assert finished_shares(config_of(out, None, SHARDS, sources)) == []
    done(out, sources, share=SHARDS - 1)
    config = config_of(out, None, SHARDS, sources)
    assert len(finished_shares(config)) == SHARDS
    config.speeches.identifiers = False
    assert finished_shares(config) == []
    assert finished_shares(config_of(out, None, SHARDS - 1, sources)) == []
    with Path(sources[0]["path"]).open("a") as file:
        file.write('{"id": "new", "text": "' + "word " * 40 + '"}\n')
    assert finished_shares(config_of(out, None, SHARDS, sources)) == []


def test_a_damaged_share_is_refused_by_name(tmp_path: Path, sources: list[dict[str, Any]]) -> None:
    for index in range(SHARDS):
        done(tmp_path / "out", sources, share=index)
    cleaned = AnnotationDir(tmp_path / "out").cleaning(1).speeches
    cleaned.write_bytes(cleaned.read_bytes()[:200])
    with pytest.raises(UserError, match=f"{tmp_path}/out/shards: holds a damaged table"):
        done(tmp_path / "out", sources)
