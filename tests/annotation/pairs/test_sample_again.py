"""`data=sample`, made again: its replies and ratings as tables of `annotate` give the pairs that `data=sample` has."""

from pathlib import Path
from typing import Any

import datasets
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
        speeches.append(speech(of, row["prompt"].strip(), topic=row["topic"]))
        for number, each in enumerate(row["replies"]):
            replies.append(reply(of, number, each["text"].strip()))
            votes.append(vote(of, replies[-1]["reply"], [each["ratings"][name] for name in PRINCIPLES]))
    made = annotation_dir(tmp_path_factory.mktemp("sample"), speeches, replies, votes)
    run(context(made))
    return made


def sample_config(overrides: list[str]) -> DictConfig:
    return compose(overrides).data


def as_pair(example: Example) -> Pair:
    assert example.ratings is not None
    return (example.prompt[0]["content"], *example.replies, *(tuple(each.items()) for each in example.ratings))


def test_the_pairs_of_the_sample_come_back(files: AnnotationDir) -> None:
    """The same pairs in the same order, orientation and ratings, so the same gaps."""
    config = sample_config(GAP)
    examples = load_examples(config.path, "train", None)
    expected = [as_pair(each) for each in pairs_of(examples, config, "sample", lambda text: None)]
    found = load_examples(str(files.dataset), "train", None)
    assert sorted(map(as_pair, found)) == sorted(expected)
    assert len(expected) > 800
    order = [each.prompt[0]["content"] for each in found]
    assert order == sorted(order, key=order.index), "rows of a speech stand together"


def test_harmful_replies_are_never_chosen(files: AnnotationDir) -> None:
    harmful = {each["text"].strip() for _, row in sample_rows() for each in row["replies"] if each["harmful"]}
    rows = datasets.load_dataset(str(files.dataset))["train"]
    assert harmful
    assert not harmful & set(rows["chosen"])
    assert harmful & set(rows["rejected"])


def test_the_dataset_trains_and_loads(files: AnnotationDir) -> None:
    """By `data.path=` and by the library, with the released columns first."""
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
    """`pairs.safety_veto=false` gives the pairs of `data.safety_veto=false`, marks of harm aside."""
    made = AnnotationDir(tmp_path)
    for name in ("speeches", "replies", "votes"):
        getattr(made, name).symlink_to(getattr(files, name))
    run(context(made, pairs={"safety_veto": False}))
    config = sample_config(["data=sample", "data.min_gap=1"])
    examples = load_examples(config.path, "train", None)
    for example in examples:
        example.harmful = None
    expected = {as_pair(each) for each in pairs_of(examples, config, "sample", lambda text: None)}
    assert {as_pair(each) for each in load_examples(str(made.dataset), "train", None)} == expected
