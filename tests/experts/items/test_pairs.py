"""Tests of candidates from each kind of folder: equal pairs are one item, and nothing reveals the preferred reply."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from psychocounsel.errors import UserError
from psychocounsel.evaluation.judging.pairs import SCHEMA
from psychocounsel.experts.items.candidates import CONTRADICTED, distinct, pair_candidate
from psychocounsel.experts.items.pairs import JUDGES, ORDER, SPLIT_VOTES, candidates_of
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.tables import rows_of
from tests.support import contests
from tests.support.annotated_dir import annotated
from tests.support.harness import cli, write_jsonl
from tests.support.judged import evaluation_dir, reply, speech
from tests.support.reviewing import pair

PROMPT = [{"role": "user", "content": "I cannot sleep."}]


def test_an_item_is_the_same_whatever_the_order_of_its_replies() -> None:
    one, other = pair_candidate("s", PROMPT, "Yes.", "No.", 0), pair_candidate("s", PROMPT, "No.", "Yes.", 1)
    assert one == other and one is not None and one.preferred is not None
    assert one.replies[one.preferred] == "Yes."
    assert pair_candidate("s", PROMPT, "Yes.", "  yes. ", 0) is None
    assert pair_candidate("s", [{"role": "user", "content": "Other"}], "Yes.", "No.", 0).item != one.item  # type: ignore[union-attr]


def test_a_pair_with_both_preferences_is_flagged_and_prefers_neither() -> None:
    found = distinct([pair_candidate("s", PROMPT, "Yes.", "No.", 0), pair_candidate("s", PROMPT, "Yes.", "No.", 1)])
    assert [(each.preferred, each.flags) for each in found] == [(None, (CONTRADICTED,))]


@pytest.mark.parametrize(
    ("risk", "crisis"),
    [
        ("suicidal_thoughts", True),
        ("abuse", True),
        ("none", False),
        ("unknown", False),
        ("minor", False),
        (None, False),
    ],
)
def test_a_named_danger_is_a_crisis_and_a_circumstance_is_none(risk: str | None, crisis: bool) -> None:
    found = pair_candidate("s", PROMPT, "Yes.", "No.", 0, risk=risk)
    assert found is not None and found.crisis is crisis


def test_the_dataset_of_an_annotate_folder_gives_its_pairs(tmp_path: Path) -> None:
    files = annotated(tmp_path / "prefs", range(12), risk="abuse")
    found = candidates_of(files.path)
    columns = ["ID", "question", "chosen", "rejected", "chosen_probability"]
    rows = [row for split in ("train", "test") for row in rows_of(files.dataset / f"{split}.parquet", columns)]
    assert len(found) == len({(row["ID"], frozenset((row["chosen"], row["rejected"]))) for row in rows})
    by_texts = {(each.speech, frozenset(each.replies)): each for each in found}
    for row in rows:
        each = by_texts[row["ID"], frozenset((row["chosen"], row["rejected"]))]
        assert each.preferred is not None and each.replies[each.preferred] == row["chosen"]
        assert each.prompt == [{"role": "user", "content": row["question"]}] and each.crisis
        assert (SPLIT_VOTES in each.flags) == (row["chosen_probability"] <= 0.5)


def test_replies_alone_give_the_pairs_that_judges_would_compare(tmp_path: Path) -> None:
    for name, word in (("mine", "Hm"), ("base", "No"), ("other", "Go")):
        contests.replies(tmp_path / f"{name}.jsonl", lambda prompt, word=word: f"{word}, {prompt[:13]}.")  # type: ignore[misc]
    against = f"against=[{tmp_path}/base.jsonl,{tmp_path}/other.jsonl]"
    typed = (*contests.data(tmp_path), f"model.path={tmp_path}/mine.jsonl", against, "judge=tiny")
    cli("evaluate", "evaluation=winrate", *typed, "steps=[replies]", "run_dir=out", cwd=tmp_path)
    found = candidates_of(tmp_path / "out")
    assert len(found) == 24 and {each.preferred for each in found} == {None}
    assert {frozenset(reply[:2] for reply in each.replies) for each in found} == {
        frozenset({"Hm", "No"}),
        frozenset({"Hm", "Go"}),
    }


def verdict(first: str, second: str, judge: str, order: str, overall: int, of: str = "s1") -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(SCHEMA.names)
    row |= {"speech": of, "sample": 0, "first_setting": "beta", "first_seed": 0, "first_reply": f"id-{first}"}
    row |= {"second_setting": "base", "second_seed": 0, "second_reply": f"id-{second}", "judge": judge}
    return row | {"order": order, "outcome": "text", "overall": overall}


def test_a_win_rates_folder_gives_the_pairs_that_judges_judged(tmp_path: Path) -> None:
    texts = ("Calm.", "Curt.", "Warm.", "Zeal.")
    replies = [reply("s1", "beta" if text in texts[:2] else "base", text) for text in texts]
    files: EvaluationDir = evaluation_dir(tmp_path / "w", [speech("s1", risk="none", topic="work")], replies)
    rows = [verdict("Calm.", "Warm.", judge, order, -1) for judge in "xy" for order in ("forward", "backward")]
    rows += [verdict("Curt.", "Warm.", "x", order, side) for order, side in (("forward", 1), ("backward", -1))]
    rows += [verdict("Zeal.", "Curt.", "x", order, 1) for order in ("forward", "backward")]
    rows += [verdict("Zeal.", "Curt.", "y", order, -1) for order in ("forward", "backward")]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), files.verdicts)
    found = {frozenset(each.replies): each for each in candidates_of(files.path)}
    agreed = found[frozenset(("Calm.", "Warm."))]
    assert agreed.replies[agreed.preferred or 0] == "Warm." and agreed.gap == 1 and agreed.flags == ()
    assert (agreed.topic, agreed.prompt[-1]["content"]) == ("work", "I am client s1.")
    turned = found[frozenset(("Curt.", "Warm."))]
    assert (turned.preferred, turned.flags) == (None, (ORDER,))
    assert found[frozenset(("Zeal.", "Curt."))].flags == (JUDGES,)


def test_an_audits_folder_gives_the_pairs_that_it_looked_at(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", [pair(number) for number in range(20)])
    cli("audit", "data.path=pairs.jsonl", "run_dir=audited", "limit=15", "audit.permutations=100", cwd=tmp_path)
    of_audit, of_file = candidates_of(tmp_path / "audited"), candidates_of(tmp_path / "pairs.jsonl")
    assert len(of_audit) == 15 and {each.item for each in of_audit} < {each.item for each in of_file}


def test_what_holds_no_pairs_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "one.jsonl", [{"prompt": "I cannot sleep.", "response": "Why?"}])
    with pytest.raises(UserError, match=r"one\.jsonl.*not a pair of a chosen and a rejected reply"):
        candidates_of(tmp_path / "one.jsonl")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(
        UserError,
        match="this folder holds no pairs, crisis set or adjudicate.csv; if annotate, evaluate or audit writes this folder",
    ):
        candidates_of(empty)
    with pytest.raises(UserError, match="does not exist"):
        candidates_of(tmp_path / "none")
    write_jsonl(tmp_path / "same.jsonl", [{"prompt": "I cannot sleep.", "chosen": "Why?", "rejected": "why?"}])
    with pytest.raises(UserError, match="no speech has two different replies"):
        candidates_of(tmp_path / "same.jsonl")
