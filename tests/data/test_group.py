"""Groups read from disk equal those written, and the data of a run have a fingerprint."""

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from psychocounsel.data.dataset import Dataset, build_dataset
from psychocounsel.data.group import SCHEMA, Completion, Group, read_groups, write_groups
from psychocounsel.errors import UserError
from psychocounsel.model.tokenizer import load_chat_format
from tests.support.composed import check, compose
from tests.support.harness import random_groups, write_jsonl


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


FULL = Completion(
    ids(5, 6, 7), "Go on \u2013 I listen.", floats(-1, -2, -0.1), floats(-1.5, -2, -0.3), floats(0, 1, 2), floats(1, 1, -1),
    0.1 + 0.2, "stop", 3, engines=["http://gpu7:8000"],
)  # fmt: skip


def same(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray):
        return isinstance(second, np.ndarray) and first.dtype == second.dtype and np.array_equal(first, second)
    return type(first) is type(second) and first == second


def test_every_field_survives_the_round_trip(tmp_path: Path) -> None:
    groups = [
        Group("full", ids(1, 2), [FULL, Completion(ids(9))], "speech"),
        Group("session", ids(1), [Completion(ids(5, 6, 7), trained=np.array([True, False, True]))]),
        Group("no replies yet", ids(1), []),
        Group("scored only", ids(1, 2, 3), [Completion(ids(4), reward=-1.0, finish_reason="length", policy_version=0)]),
        Group("empty reply", ids(1), [Completion(ids(), logprobs=floats())]),
    ]
    write_groups(tmp_path / "shard.parquet", groups)
    read = read_groups(tmp_path / "shard.parquet")
    assert [group.id for group in read] == [group.id for group in groups]
    for old, new in zip(groups, read, strict=True):
        assert same(old.prompt_ids, new.prompt_ids)
        assert old.prompt_text == new.prompt_text
        assert len(old.completions) == len(new.completions)
        for before, after in zip(old.completions, new.completions, strict=True):
            for field in fields(Completion):
                assert same(getattr(before, field.name), getattr(after, field.name)), field.name


def test_the_schema_on_disk_has_every_field_even_when_all_are_none(tmp_path: Path) -> None:
    write_groups(tmp_path / "shard.parquet", [Group("a", ids(1), [Completion(ids(2))])])
    assert pq.read_schema(tmp_path / "shard.parquet").equals(SCHEMA)
    assert {field.name for field in SCHEMA.field("completions").type.value_type} == {f.name for f in fields(Completion)}
    write_groups(tmp_path / "none.parquet", [])
    assert read_groups(tmp_path / "none.parquet") == []


def test_a_shard_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_groups(tmp_path / "shard.parquet", random_groups(3))

    def killed(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write_groups(tmp_path / "shard.parquet", random_groups(5))
    assert len(read_groups(tmp_path / "shard.parquet")) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["shard.parquet"], "no draft stays on the disk"


def test_token_counts_and_the_filler() -> None:
    group = Group("a", ids(1, 2, 3), [FULL, Completion(ids(4, 5))])
    assert (group.tokens, group.trained_lengths) == (8, (3, 2))
    filler = group.shortened()
    assert (filler.tokens, len(filler.completions)) == (3, 2)
    assert all(
        len(getattr(filler.completions[0], name)) == 1 for name in ("logprobs", "ref_logprobs", "values", "advantages")
    )
    assert (group.tokens, len(FULL.ids)) == (8, 3)
    session = Completion(ids(5, 6, 7, 8), trained=np.array([True, False, False, True]), logprobs=floats(-1, -2))
    assert (session.trained_tokens, Group("b", ids(1), [session]).tokens) == (2, 5)
    cut = session.cut(3)
    assert (cut.ids.tolist(), cut.trained.tolist(), cut.logprobs.tolist()) == ([5, 6, 7], [True, False, False], [-1])
    assert session.cut(1).trained is None, "equal completions have one form"


def test_masked_tokens_are_read_but_not_trained() -> None:
    assert FULL.with_trained(np.ones(3, bool)) is FULL
    rest = FULL.with_trained(np.array([False, True, True]))
    assert (rest.ids.tolist(), rest.trained_ids.tolist(), FULL.trained) == ([5, 6, 7], [6, 7], None)
    assert (rest.logprobs.tolist(), rest.advantages.tolist(), rest.values) == (
        FULL.logprobs[1:].tolist(),
        [1, -1],
        rest.values,
    )
    session = Completion(ids(5, 6, 7, 8), trained=np.array([True, False, True, True]), logprobs=floats(-1, -2, -3))
    session = session.with_trained(np.array([False, True, False]))
    assert (session.trained_ids.tolist(), session.logprobs.tolist()) == ([7], [-2])
    filler = Group("a", ids(1, 2), [rest, session]).shortened()
    assert filler.trained_lengths == (1, 1) and filler.completions[0].advantages.tolist() == [1], "no loss divides by 0"


# -- from configuration to groups


def build(*overrides: str, kind: str = "pairs") -> tuple[Dataset, list[str]]:
    said: list[str] = []
    config = check(compose(list(overrides)))
    return build_dataset(config, load_chat_format(config.model)[1], kind, said.append), said


def test_the_sample_becomes_pairs_and_demonstrations() -> None:
    pairs, said = build()
    assert {len(group.completions) for group in [*pairs.train, *pairs.held_out]} == {2}
    assert len(pairs.train) > 200
    assert len(pairs.held_out) > 40
    assert not any("rows dropped" in line for line in said)
    demonstrations, _ = build(kind="completions")
    assert {len(group.completions) for group in demonstrations.train} == {1}
    assert len(demonstrations.train) < len(pairs.train)


def test_the_fingerprint_follows_the_tokens() -> None:
    first, again, other = (build(*o)[0].fingerprint() for o in ([], ["seed=7"], ["data.split_seed=1"]))
    assert first == again != other
    assert build("model.system_prompt=Be kind.")[0].fingerprint() != first
    pair = Group("a", ids(1, 2), [Completion(ids(3)), Completion(ids(4))])
    swapped = Group("a", ids(1, 2), pair.completions[::-1])
    moved = Group("a", ids(1), [Completion(ids(2, 3)), Completion(ids(4))])
    assert len({Dataset([group], []).fingerprint() for group in (pair, swapped, moved)}) == 3


def test_held_out_rows_have_a_limit_and_nothing_left_is_an_error() -> None:
    data, said = build("eval.limit=5", "max_length=300", "data.too_long=drop")
    assert len(data.held_out) == 5
    assert any(line.startswith("training data: ") and "longer than max_length" in line for line in said)
    with pytest.raises(UserError, match="no training row is left .* with max_length=20"):
        build("max_length=20")


def test_one_reply_is_no_pair(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "one.jsonl", [{"prompt": f"speech {n}", "completion": "yes"} for n in range(9)])
    with pytest.raises(UserError, match="use algo=sft"):
        build("data=local", f"data.path={file}")
