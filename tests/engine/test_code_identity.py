"""Cached values belong to the code that computed them: only an edit of that code makes a new cache entry."""

import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from transformers import AutoTokenizer

from psychocounsel import counsel, data
from psychocounsel.data import tokenised_cache
from psychocounsel.data.tokenise import ChatFormat
from psychocounsel.engine import references
from psychocounsel.storage.files import PACKAGE
from tests.support.composed import check, compose
from tests.support.harness import TINY


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the package's source files; both caches hash this copy from now on."""
    copy = tmp_path / "psychocounsel"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "shipped", "sample"))
    monkeypatch.setattr(references, "PACKAGE", copy)
    for room in (data, counsel):
        monkeypatch.setattr(room, "__path__", [str(copy / Path(room.__path__[0]).name)])
    return copy


@cache
def config() -> DictConfig:
    return check(compose([]))


@cache
def chat() -> ChatFormat:
    return ChatFormat(AutoTokenizer.from_pretrained(TINY), {}, "tiny")


def code_of_references() -> str:
    return references.reference_identity(config(), "w", torch.device("cpu"))["code"]


def code_of_tokens() -> str | None:
    return tokenised_cache._key(config(), chat(), "pairs")


def edit(file: Path) -> None:
    file.write_text(file.read_text() + "# changed\n")


@pytest.mark.parametrize("pattern", references._DECIDING)
def test_every_pattern_matches_files(pattern: str) -> None:
    assert list(PACKAGE.glob(pattern))


@pytest.mark.parametrize("folder", ["model", "model/cpu"])
def test_an_edit_of_any_file_of_the_models_makes_new_references(folder: str, package: Path) -> None:
    files = sorted((package / folder).glob("*.py"))
    assert {"lanes.py", "linear.py"} <= {file.name for file in files} or folder == "model"
    codes = [code_of_references()]
    for file in files:
        edit(file)
        codes.append(code_of_references())
    assert len(set(codes)) == len(files) + 1 > 5


@pytest.mark.parametrize("name", ["engine/step.py", "engine/zero.py", "data/batch.py"])
def test_an_edit_of_what_computes_makes_new_references(name: str, package: Path) -> None:
    before = code_of_references()
    edit(package / name)
    assert code_of_references() != before


def test_other_edits_keep_the_references(package: Path) -> None:
    before = code_of_references()
    for name in ("engine/trainer.py", "cluster/local.py", "train.py", "storage/files.py"):
        edit(package / name)
    assert code_of_references() == before


def test_an_edit_of_data_or_counsel_makes_new_tokens(package: Path) -> None:
    files = sorted([*(package / "data").glob("*.py"), *(package / "counsel").glob("*.py")])
    codes = [code_of_tokens()]
    for file in files:
        edit(file)
        codes.append(code_of_tokens())
    assert len(set(codes)) == len(files) + 1 > 10
    edit(package / "model" / "load.py")
    assert code_of_tokens() == codes[-1]
