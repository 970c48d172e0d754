"""`data.soft_labels` from column to groups: labels are kept, swapped with their pair, and required if the setting is on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.dataset import Dataset, build_dataset
from psychocounsel.data.flat import flatten, unflatten
from psychocounsel.data.rows import parse_row
from psychocounsel.errors import UserError
from psychocounsel.model.tokenizer import load_chat_format
from psychocounsel.settings.config import check, compose
from tests.support.harness import write_jsonl
from tests.support.in_process import run_here

Row = dict[str, Any]


def row(number: int, **more: Any) -> Row:
    return {"id": number, "prompt": f"I am {number}.", "chosen": f"Good {number}.", "rejected": f"Bad {number}."} | more


def built(file: Path, cache: Path, *overrides: str) -> Dataset:
    given = ["data=local", f"data.path={file}", f"paths.cache={cache}", *overrides]
    config = check(compose(given))
    return build_dataset(config, load_chat_format(config.model)[1], "pairs", lambda line: None)


def labels_of(dataset: Dataset) -> dict[str, float | None]:
    return {group.id: group.probability for group in (*dataset.train, *dataset.held_out)}


def test_labels_reach_the_groups_if_asked_and_again_from_the_cache(tmp_path: Path) -> None:
    rows = [row(number, chosen_probability=number / 19) for number in range(20)]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    expected = {str(number): number / 19 for number in range(20)}
    first, again = (built(file, tmp_path / "cache", "data.soft_labels=true") for _ in range(2))
    assert labels_of(first) == labels_of(again) == expected
    assert first.fingerprint() == again.fingerprint()
    plain = built(file, tmp_path / "cache")
    assert set(labels_of(plain).values()) == {None}
    assert plain.fingerprint() != first.fingerprint()
    one = replace(first.train[0], probability=0.123)
    assert Dataset([one], []).fingerprint() != Dataset([first.train[0]], []).fingerprint()
    kept = [None, 0.0, 0.5, 1.0]
    groups = [replace(first.train[0], probability=value) for value in kept]
    assert [group.probability for group in unflatten(flatten(groups))] == kept


def ratings(chosen: dict[str, int], rejected: dict[str, int]) -> Row:
    given = {"chosen": chosen, "rejected": rejected}
    return {f"{side}_{name}_rating": given[side].get(name, 3) for side in given for name in PRINCIPLES}


def test_a_pair_that_changes_sides_takes_the_other_label(tmp_path: Path) -> None:
    kept = ratings({"empathy": 5, "safety": 5}, {})
    turned = ratings({"empathy": 5}, {"safety": 4})  # by safety alone, the rejected reply is better
    rows = [row(number, chosen_probability=0.8, **(turned if number % 2 else kept)) for number in range(10)]
    weights = [f"data.principle_weights.{name}={int(name == 'safety')}" for name in PRINCIPLES]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    found = built(file, tmp_path / "cache", "data.soft_labels=true", *weights)
    for group in (*found.train, *found.held_out):
        odd = int(group.id) % 2
        assert group.completions[0].text == ("Bad" if odd else "Good") + f" {group.id}."
        assert group.probability == pytest.approx(0.2 if odd else 0.8)


def test_swapped_pairs_are_certain(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [row(number, chosen_probability=0.7) for number in range(20)])
    found = labels_of(built(file, tmp_path / "cache", "data.soft_labels=true", "data.swapped=0.5"))
    assert {label for name, label in found.items() if "swapped" in name} == {1.0}
    assert {label for name, label in found.items() if "swapped" not in name} == {0.7}
    plain = labels_of(built(file, tmp_path / "cache", "data.swapped=0.5"))
    assert set(plain.values()) == {None}


@pytest.mark.parametrize("value", [-0.01, 1.01, 85, "0.8", True, float("nan"), [0.5]])
def test_a_column_that_holds_something_else_is_refused_by_its_name(value: object) -> None:
    with pytest.raises(UserError, match=r"^here: chosen_probability must be a number from 0 to 1$"):
        parse_row(row(1, chosen_probability=value), "here")


@pytest.mark.parametrize("value", [None, 0, 1, 0.5])
def test_limits_and_a_missing_value(value: float | None) -> None:
    assert parse_row(row(1, chosen_probability=value), "here").probability == value


def test_rows_without_the_column_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [row(number, chosen_probability=0.7 if number else None) for number in range(20)]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    answer = run_here(f"train algo=dpo data=local data.path={file} data.soft_labels=true dry_run=true")
    assert answer.code == 2
    assert (
        "rows.jsonl line 1: data.soft_labels=true reads the column chosen_probability, which it lacks" in answer.stderr
    )
    answer = run_here("train algo=dpo data=sample data.soft_labels=true dry_run=true")
    assert answer.code == 2 and "which it lacks: add it, or leave data.soft_labels out" in answer.stderr
