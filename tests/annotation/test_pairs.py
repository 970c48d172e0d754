"""Pairs, soft labels and tiers of random votes, compared with the definitions in exact fractions."""

import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig

from psychocounsel.annotation.pairs import run
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.rows import Example
from psychocounsel.data.selection import load_split, pairs_of
from psychocounsel.data.shipped_rows import sample_rows
from psychocounsel.data.sources import load_examples
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import AnnotationDir
from tests.support.annotation_tables import annotation_dir, context, reply, speech, vote
from tests.support.composed import compose

# Pairs, soft labels and tiers of random votes, compared with the definitions in exact fractions.

Row = dict[str, Any]

WEIGHTS = {"clarity": 3, "staging": 0}


def total(ratings: dict[str, Any]) -> Fraction:
    """Return the weighted mean over the principles that have a number."""
    weights = {name: WEIGHTS.get(name, 1) for name, rating in ratings.items() if rating is not None}
    return Fraction(sum(weights[name] * ratings[name] for name in weights), sum(weights.values()))


def random_tables(rng: random.Random) -> tuple[list[Row], list[Row], list[Row]]:
    speeches, replies, votes = [], [], []
    for number in range(60):
        of = f"{number:03d}"
        speeches.append(speech(of, split=rng.choice(["train", "train", "test"])))
        texts = [rng.choice(["one", "two", "three", "four", "five", None]) for _ in range(5)]
        replies += [reply(of, place, text) for place, text in enumerate(texts)]
        for about in {each["reply"] for each in replies[-5:] if each["text"]}:
            for annotator in ("a", "b"):
                for count in range(2):
                    rated = [rng.choice([1, 2, 3, 4, 5, 3, 4, 2, 5]) for _ in PRINCIPLES]
                    rated[4] = None if rng.random() < 0.1 else rated[4]  # not applicable
                    given = None if rng.random() < 0.15 else rated
                    votes.append(vote(of, about, given, annotator, vote=count))
                    if count == 0:  # a repetition is not a vote
                        votes.append(vote(of, about, [1] * 7, annotator, repeat=1))
    return speeches, replies, votes


def numbers(row: Row) -> dict[str, Any]:
    return {name: row[f"{name}_rating"] for name in PRINCIPLES}


def by_definition(tables: tuple[list[Row], list[Row], list[Row]], min_gap: Fraction, veto: bool) -> dict[Any, Any]:
    """(speech, chosen, rejected) -> (probability, safety of both)."""
    pairs = {}
    speeches, replies, votes = tables
    for each in speeches:
        of, known = each["speech"], {}
        for text in dict.fromkeys(row["text"] for row in replies if row["speech"] == of and row["text"]):
            mine = {
                (row["annotator"], row["vote"]): numbers(row)
                for row in votes
                if row["reply"] == f"{of}-{text}" and row["outcome"] == "rated" and not row["repeat"]
            }
            given = {name: [one[name] for one in mine.values() if one[name] is not None] for name in PRINCIPLES}
            if all(given.values()):
                known[text] = ({name: Fraction(sum(ones), len(ones)) for name, ones in given.items()}, mine)
        order = sorted(known, key=lambda text: -total(known[text][0]))
        candidates = (
            combinations(order, 2) if each["split"] == "train" else [(order[0], order[-1])] if order[1:] else []
        )
        for chosen, rejected in candidates:
            (mean, mine), (other, theirs) = known[chosen], known[rejected]
            gap = total(mean) - total(other)
            if gap == 0 or (each["split"] == "train" and gap < min_gap) or (veto and mean["safety"] < other["safety"]):
                continue
            said = []
            for key in mine.keys() & theirs.keys():
                common = [name for name in PRINCIPLES if None not in (mine[key][name], theirs[key][name])]
                first, second = (total({name: one[key][name] for name in common}) for one in (mine, theirs))
                said.append(Fraction(int(first > second) * 2 + int(first == second), 2))
            if said:
                pairs[of, chosen, rejected] = float(sum(said) / len(said)), mean["safety"], other["safety"]
    return pairs


@pytest.mark.parametrize(("min_gap", "gap"), [(0.5, "mean"), (3.5, "sum")])
@pytest.mark.parametrize("veto", [True, False])
def test_pairs_are_those_of_the_definition(tmp_path: Path, min_gap: float, gap: str, veto: bool) -> None:
    tables = random_tables(random.Random(5))
    files = annotation_dir(tmp_path, *tables)
    rules = {"min_gap": min_gap, "gap": gap, "safety_veto": veto, "principle_weights": WEIGHTS}
    figures = run(context(files, pairs=rules))
    expected = by_definition(tables, Fraction(1, 2), veto)
    split = {row["speech"]: row["split"] for row in tables[0]}
    tiers: dict[str, int] = {}
    seen = set()
    for part in ("train", "test"):
        for row in pq.read_table(files.dataset / f"{part}.parquet").to_pylist():
            key = row["ID"], row["chosen"], row["rejected"]
            probability, safety, other = expected[key]
            assert split[row["ID"]] == part
            assert row["chosen_probability"] == pytest.approx(probability, abs=1e-12)
            tier = "unanimous" if probability == 1 else "majority" if probability > 0.5 else "split"
            assert row["agreement"] == tier
            assert (row["chosen_safety_rating"], row["rejected_safety_rating"]) == (float(safety), float(other))
            tiers[tier] = tiers.get(tier, 0) + 1
            seen.add(key)
    assert seen == expected.keys()
    assert len(tiers) == 3, "otherwise not all tiers were tested"
    together = [figures["train"]["agreement"][name] + figures["test"]["agreement"][name] for name in tiers]
    assert together == [*tiers.values()]
    assert figures["votes_averaged"]
    assert (figures["train"]["dropped"]["chosen_less_safe"] > 0) == veto


def one_speech(tmp_path: Path, ratings: dict[str, list[Row]], texts: list[str | None], said: list[str]) -> Any:
    replies = [reply("s", number, text) for number, text in enumerate(texts)]
    votes = [row for rows in ratings.values() for row in rows]
    files = annotation_dir(tmp_path, [speech("s")], replies, votes)
    figures = run(context(files, said))
    return figures, pq.read_table(files.dataset / "train.parquet").to_pylist(), files


@pytest.fixture
def rate() -> Callable[..., Row]:
    return lambda text, rating, **more: vote("s", f"s-{text}", rating and [rating] * 7, **more)


def test_what_has_no_vote_or_no_text_makes_no_pair(tmp_path: Path, rate: Callable[..., Row]) -> None:
    votes = {"good": [rate("good", 5)], "refused": [rate("refused", None)], "bad": [rate("bad", 1)]}
    figures, rows, _ = one_speech(tmp_path, votes, ["good", None, "refused", "bad", "good", "unasked"], said := [])
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("good", "bad")]
    dropped = figures["train"]["dropped"]
    assert (dropped["replies_without_text"], dropped["replies_without_vote"], dropped["equal_replies"]) == (1, 2, 1)
    assert "train: 1 pair (one vote each)" in said


def test_replies_that_no_vote_rated_together_make_no_pair(tmp_path: Path, rate: Callable[..., Row]) -> None:
    votes = {"one": [rate("one", 5, annotator="a")], "two": [rate("two", 1, annotator="b")]}
    figures, rows, _ = one_speech(tmp_path, votes, ["one", "two"], [])
    assert not rows
    assert figures["train"]["dropped"]["no_vote_rated_both"] == 1


def test_a_pair_may_go_against_most_votes(tmp_path: Path, rate: Callable[..., Row]) -> None:
    """One vote prefers A by four points, two prefer B by one: A has the higher mean, and its soft label is one third."""
    first = [rate("one", value, vote=number) for number, value in enumerate((5, 2, 2))]
    second = [rate("two", value, vote=number) for number, value in enumerate((1, 3, 3))]
    files = annotation_dir(tmp_path, [speech("s")], [reply("s", 0, "one"), reply("s", 1, "two")], first + second)
    figures = run(context(files, said := [], pairs={"min_gap": 0.5}))
    (row,) = pq.read_table(files.dataset / "train.parquet").to_pylist()
    assert (row["chosen"], row["agreement"]) == ("one", "split")
    assert row["chosen_probability"] == pytest.approx(1 / 3)
    assert figures["train"]["against_majority"] == 1
    assert any("against most votes" in line for line in said)
    assert str(pq.read_schema(files.dataset / "train.parquet").field("chosen_empathy_rating").type) == "double"


def test_damaged_tables_are_told(tmp_path: Path, rate: Callable[..., Row]) -> None:
    _, _, files = one_speech(tmp_path, {"one": [rate("one", 5)], "two": [rate("two", 1)]}, ["one", "two"], [])
    before = (files.dataset / "train.parquet").read_bytes()
    files.votes.write_bytes(files.votes.read_bytes()[:-40])
    with pytest.raises(UserError, match="votes.parquet: is not a complete parquet file"):
        run(context(files))
    files.votes.unlink()
    with pytest.raises(UserError, match="votes.parquet: is missing; first run the step that writes it"):
        run(context(files))
    assert (files.dataset / "train.parquet").read_bytes() == before
    assert sorted(path.name for path in files.dataset.iterdir()) == ["train.parquet"], (
        "no test pairs, and nothing half-written"
    )


# Rebuilds `data=sample`: its replies and ratings as tables of `annotate` give the pairs of `data=sample`.

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
