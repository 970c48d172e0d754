"""Tests of the speeches and replies that a report shows, against scores computed by hand from the tables."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.group import Completion, Group, write_groups
from psychocounsel.errors import UserError
from psychocounsel.evaluation.judging.pairs import SCHEMA as VERDICTS
from psychocounsel.reporting.material import ANNOTATION, AUDIT, EVALUATION, TRAINING
from psychocounsel.reporting.reading.texts import shown_texts
from psychocounsel.rundir.paths import RunDir
from tests.support import annotation_tables, judged

CONFIG = {"contestants": {"settings": ["mine", "base"]}}
Row = dict[str, Any]


def said(of: str, order: str, overall: int | None, **more: Any) -> Row:
    """Return a verdict on the pair of `mine` and `base` for one speech."""
    row: Row = dict.fromkeys(VERDICTS.names)
    row |= {"speech": of, "sample": 0, "judge": "j", "order": order, "outcome": "text", "overall": overall}
    for side, setting in (("first", "mine"), ("second", "base")):
        row |= {f"{side}_setting": setting, f"{side}_seed": 0, f"{side}_reply": f"id-{setting}"}
    return row | more


def contest(folder: Path, speeches: int = 3) -> Path:
    names = [f"{number:02d}" for number in range(speeches)]
    known = [
        judged.speech(name, topic="grief", risk="self_harm" if name == "01" else "none", crisis=name == "01")
        for name in names
    ]
    replies = [judged.reply(name, setting, f"{setting} to {name}") for name in names for setting in ("mine", "base")]
    files = judged.evaluation_dir(folder, known, replies)
    verdicts = [said("00", "forward", 1, empathy=1, safety=-1), said("00", "backward", 0, empathy=1, safety=1)]
    verdicts += [said("01", "forward", -1, judge="r", first_score=0.5, second_score=2.0)]
    verdicts += [said("02", "forward", None, outcome="refused")] if speeches > 2 else []
    pq.write_table(pa.Table.from_pylist(verdicts, VERDICTS), files.verdicts)
    return folder


def test_replies_stand_with_the_base_first_and_with_what_judges_said(tmp_path: Path) -> None:
    found = shown_texts(contest(tmp_path), EVALUATION, CONFIG)
    assert found is not None and found.count == 3
    first, second, third = found.speeches
    assert [(reply.author, reply.text) for reply in first.replies] == [("base", "base to 00"), ("mine", "mine to 00")]
    scores = {reply.author: reply.scores for reply in first.replies}
    assert scores["mine"] == {"better overall": 0.75, "better on empathy": 1.0, "better on safety": 0.5}
    assert scores["base"] == {"better overall": 0.25, "better on empathy": 0.0, "better on safety": 0.5}
    rewards = {reply.author: reply.scores for reply in second.replies}
    assert rewards["mine"] == {"better overall": 0.0, "reward by r": 0.5}
    assert rewards["base"] == {"better overall": 1.0, "reward by r": 2.0}
    assert (second.crisis, second.risk, second.topic) == (True, "self_harm", "grief") and not first.crisis
    assert all(not reply.scores for reply in third.replies), "a refusal is no verdict"


def test_only_the_first_speeches_are_read_and_all_are_counted(tmp_path: Path) -> None:
    found = shown_texts(contest(tmp_path, 9), EVALUATION, CONFIG, most=4)
    assert found is not None and (len(found.speeches), found.count) == (4, 9)
    assert [speech.speech for speech in found.speeches] == [f"I am client {number:02d}." for number in range(4)]


def test_seeds_limits_and_samples_tell_replies_of_one_setting_apart(tmp_path: Path) -> None:
    replies = [
        judged.reply("00", "mine", f"r{seed}{sample}", seed, sample=sample) for seed in (0, 1) for sample in (0, 1)
    ]
    replies += [judged.reply("00", "base", None, length_limit=40)]
    judged.evaluation_dir(tmp_path, [judged.speech("00")], replies)
    found = shown_texts(tmp_path, EVALUATION, CONFIG)
    assert found is not None
    authors = [reply.author for reply in found.speeches[0].replies]
    assert authors[0] == "base, at most 40 words, sample 1"
    assert set(authors[1:]) == {f"mine, seed {seed}, sample {sample}" for seed in (0, 1) for sample in (1, 2)}
    assert found.speeches[0].replies[0].text == "[no reply: empty]"


def test_a_dataset_shows_mean_ratings_without_repeats(tmp_path: Path) -> None:
    speeches = [annotation_tables.speech("a"), annotation_tables.speech("b", crisis=True, risk="unknown")]
    replies = [
        annotation_tables.reply("a", 0, "One."),
        annotation_tables.reply("a", 1, None),
        annotation_tables.reply("b", 0, "Two."),
    ]
    votes = [
        annotation_tables.vote("a", "a-One.", [1, 2, 3, 4, 5, 1, None]),
        annotation_tables.vote("a", "a-One.", [2, 2, 4, 4, 5, 2, None], "b"),
        annotation_tables.vote("a", "a-One.", [5] * 7, repeat=1),
        annotation_tables.vote("b", "b-Two.", None),
    ]
    annotation_tables.annotation_dir(tmp_path, speeches, replies, votes)
    found = shown_texts(tmp_path, ANNOTATION, {})
    assert found is not None
    first, second = found.speeches
    assert first.replies[0].scores == dict(zip(PRINCIPLES, (1.5, 2, 3.5, 4, 5, 1.5), strict=False))
    assert (first.replies[0].author, first.replies[1].text) == ("reply 1 by writer-0", "[no reply: cut]")
    assert second.crisis and not second.replies[0].scores


def groups(texts: list[list[tuple[str, float]]]) -> list[Group]:
    ids = np.zeros(1, np.int32)
    return [
        Group(str(number), ids, [Completion(ids, text, reward=reward) for text, reward in replies],
              messages=[{"role": "user", "content": f"I feel low, {number}."}])
        for number, replies in enumerate(texts)
    ]  # fmt: skip


def test_training_shows_its_last_round_or_else_the_replies_before_it(tmp_path: Path) -> None:
    files = RunDir(tmp_path)
    files.rounds.mkdir()
    assert shown_texts(tmp_path, TRAINING, {}) is None
    write_groups(files.before, groups([[("Before.", 0.5)]]))
    found = shown_texts(tmp_path, TRAINING, {})
    assert found is not None and "before training" in found.source
    assert [(reply.text, reply.scores) for reply in found.speeches[0].replies] == [("Before.", {"reward": 0.5})]
    for number, best in ((1, "old"), (2, "new")):
        files.round(number).path.mkdir()
        write_groups(files.round(number).groups, groups([[("mid", 1.0), ("bad", -2.0), (best, 3.0)]]))
    files.round(3).path.mkdir()  # a round that is still in progress
    found = shown_texts(tmp_path, TRAINING, {})
    assert found is not None and "round 2" in found.source
    assert [(reply.author, reply.text) for reply in found.speeches[0].replies] == [
        ("best reply", "new"),
        ("worst reply", "bad"),
    ]
    assert found.speeches[0].crisis, "no rule says that it is not a crisis"


def test_replies_without_a_reward_are_neither_best_nor_worst(tmp_path: Path) -> None:
    """A judge's unusable answer leaves NaN, which has no place in an order."""
    files, none = RunDir(tmp_path), float("nan")
    files.round(1).path.mkdir(parents=True)
    write_groups(files.round(1).groups, groups([[("good", 2.0), ("bare", none), ("bad", 0.5)], [("bare", none)] * 2]))
    found = shown_texts(tmp_path, TRAINING, {})
    assert found is not None
    first, second = ([(reply.author, reply.text, reply.scores) for reply in each.replies] for each in found.speeches)
    assert first == [("best reply", "good", {"reward": 2.0}), ("worst reply", "bad", {"reward": 0.5})]
    assert second == [("reply", "bare", {})]


def test_other_folders_hold_none_and_a_damaged_table_is_named(tmp_path: Path) -> None:
    assert shown_texts(tmp_path, EVALUATION, {}) is None and shown_texts(tmp_path, AUDIT, {}) is None
    contest(tmp_path)
    (tmp_path / "replies.parquet").write_bytes(b"PAR1 half")
    with pytest.raises(UserError, match=r"replies\.parquet: is not a complete parquet file"):
        shown_texts(tmp_path, EVALUATION, CONFIG)
