"""Rebuilds `data=sample`: its replies and ratings as tables of `annotate` give the pairs of `data=sample`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig

from psychocounsel.annotation.pairs.step import run
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.rows import Example
from psychocounsel.data.sample_rows import sample_rows
from psychocounsel.data.selection.select import load_split, pairs_of
from psychocounsel.data.sources import load_examples
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.settings.config import compose
from tests.support.annotation_tables import annotation_dir, context, reply, speech, vote

GAP = ["data=sample", "data.min_gap=1", "data.safety_veto=true"]

Pair = tuple[Any, ...]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> AnnotationDir:
    speeches, replies, votes = [], [], []
    for _, row in sample_rows():
        of = row["id"]
        split = "test" if len(speeches) % 20 == 7 else "train"
        speeches.append(speech(of, row["prompt"].strip(), topic=row["topic"], split=split))
        for number, each in enumerate(row["replies"]):
            replies.append(reply(of, number, each["text"].strip()))
            votes.append(vote(of, replies[-1]["reply"], [each["ratings"][name] for name in PRINCIPLES]))
    made = annotation_dir(tmp_path_factory.mktemp("sample"), speeches, replies, votes)
    run(context(made))
    return made


def sample_config(overrides: list[str]) -> DictConfig:
    return compose(overrides).data


def split_of(files: AnnotationDir, split: str) -> set[str]:
    """The texts of speeches."""
    rows = pq.read_table(files.speeches, columns=["text", "split"]).to_pylist()
    return {row["text"] for row in rows if row["split"] == split}


def as_pair(example: Example) -> Pair:
    assert example.ratings is not None
    return (example.prompt[0]["content"], *example.replies, *(tuple(each.items()) for each in example.ratings))


@pytest.mark.parametrize(("split", "more"), [("train", []), ("test", ["data.pairs=extremes", "data.min_gap=0"])])
def test_the_pairs_of_the_sample_come_back(files: AnnotationDir, split: str, more: list[str]) -> None:
    """The pairs, their orientation and ratings are the same; test pairs are best versus worst reply."""
    config = sample_config([*GAP, *more])
    speeches = split_of(files, split)
    examples = [each for each in load_examples(config.path, "train", None) if each.prompt[0]["content"] in speeches]
    expected = [as_pair(each) for each in pairs_of(examples, config, "sample", lambda text: None)]
    found = [as_pair(each) for each in load_examples(str(files.dataset), split, None)]
    assert sorted(found, key=str) == sorted(expected, key=str)
    assert len(expected) > (800 if split == "train" else 15)


def test_harmful_replies_are_never_chosen(files: AnnotationDir) -> None:
    harmful = {each["text"].strip() for _, row in sample_rows() for each in row["replies"] if each["harmful"]}
    rows = datasets.load_dataset(str(files.dataset))["train"]
    assert harmful
    assert not harmful & set(rows["chosen"])
    assert harmful & set(rows["rejected"])


def test_the_dataset_trains_and_loads(files: AnnotationDir) -> None:
    """The dataset loads by `data.path=` and by the library, with the released columns first."""
    train, held_out = load_split(sample_config([f"data.path={files.dataset}"]), lambda text: None)
    loaded = datasets.load_dataset(str(files.dataset))
    assert len(train) + len(held_out) == len(loaded["train"])
    first = ["ID", "prefID", "question", "chosen", "rejected", "chosen_model", "rejected_model"]
    assert loaded["train"].column_names[:7] == first
    ratings = [f"{side}_{name}_rating" for side in ("chosen", "rejected") for name in PRINCIPLES]
    assert loaded["train"].column_names[7:21] == ratings
    assert {str(loaded["train"].features[name].dtype) for name in ["prefID", *ratings]} == {"int64"}
    assert loaded["test"].column_names == loaded["train"].column_names
    assert set(loaded["train"]["chosen_probability"]) == {1.0}, "one vote, and a gap in each pair"


def test_the_paper_had_no_veto(tmp_path: Path, files: AnnotationDir) -> None:
    """`pairs.safety_veto=false` gives the pairs of `data.safety_veto=false`, apart from marks of harm."""
    made = AnnotationDir(tmp_path)
    for name in ("speeches", "replies", "votes"):
        getattr(made, name).symlink_to(getattr(files, name))
    run(context(made, pairs={"safety_veto": False}))
    config = sample_config(["data=sample", "data.min_gap=1"])
    examples = load_examples(config.path, "train", None)
    speeches = split_of(files, "train")
    examples = [replace(each, harmful=None) for each in examples if each.prompt[0]["content"] in speeches]
    expected = {as_pair(each) for each in pairs_of(examples, config, "sample", lambda text: None)}
    assert {as_pair(each) for each in load_examples(str(made.dataset), "train", None)} == expected
    assert len(expected) > len(load_examples(str(files.dataset), "train", None))
