"""Tests of an expert's steps (consent, practice, pauses, changes, withdrawal) and of the log after a restart."""

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.counsel.rubric import load_rubric
from psychocounsel.errors import UserError
from psychocounsel.experts.agreement.answers import AnswerFormat, read_answers
from psychocounsel.experts.review.blind_review import BlindReview, practice_pairs, practice_round
from psychocounsel.experts.review.forgetting import forget_speeches
from psychocounsel.experts.review.log import AdverseEvents
from psychocounsel.experts.review.plan import open_plan
from psychocounsel.experts.settings import read_review
from psychocounsel.rundir.paths import ReviewDir
from psychocounsel.storage.files import temporary_name
from tests.support.reviewing import answers, pairs_file

RUBRIC = load_rubric()


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pairs_file(tmp_path, 12, at_risk=4)
    (tmp_path / "review").mkdir()
    return tmp_path


def config_of(folder: Path, *options: str, experts: str = "[e01,e02]") -> Any:
    return read_review([f"data={folder / 'pairs.jsonl'}", f"experts={experts}", "review.repeats=0", *options])


def opened(folder: Path, *options: str, consent: str = "Do you agree?", clock: Clock | None = None) -> BlindReview:
    config = config_of(folder, *options)
    files = ReviewDir(folder / "review")
    plan = open_plan(config, files, lambda line: None)
    adverse = AdverseEvents(files.adverse_events, [], lambda line: None)
    return BlindReview(plan, files, config.review, RUBRIC, consent, adverse, clock or Clock())


def given(choice: str = "left", seconds: float = 30.0, **more: Any) -> dict[str, Any]:
    return {"choice": choice, "ratings": {}, "safety": {}, "comment": "", "seconds": seconds, **more}


def test_nothing_is_shown_before_consent_and_a_new_text_is_agreed_to_anew(folder: Path) -> None:
    review = opened(folder, "review.practice=0")
    first = review.raters["e01"].shown[0]
    assert review.next_step("e01").kind == "consent" and review.may_answer("e01", first.item, 0) is None
    review.agree("e01")
    assert review.next_step("e01").shown == first and review.may_answer("e01", first.item, 0) == first
    assert review.next_step("e02").kind == "consent"
    review.close()
    again = opened(folder, "review.practice=0", consent="Do you still agree?")
    assert again.next_step("e01").kind == "consent"
    again.agree("e01")
    kept = sorted(path.read_text() for path in (folder / "review" / "consent").iterdir())
    assert kept == ["Do you agree?", "Do you still agree?"]


def practise(review: BlindReview, right: list[bool]) -> None:
    for well in right:
        practice = review.next_step("e01").practice
        assert practice is not None
        other = "right" if practice.better == "left" else "left"
        assert review.practise("e01", practice.number, practice.better if well else other) == practice


def test_items_follow_once_enough_practice_items_are_right(folder: Path) -> None:
    review = opened(folder, "review.practice=4")
    review.agree("e01")
    practise(review, [True, False, True, False])
    assert review.next_step("e01").practice == practice_round(RUBRIC, 4, (0, 0), 1)[0]
    assert review.practise("e01", 0, "left") is None  # not the item that is due
    practise(review, [True, True, False, True])
    assert review.next_step("e01").kind == "item"


def test_no_items_follow_when_all_rounds_of_practice_fell_short(folder: Path) -> None:
    review = opened(folder, "review.practice=4")
    review.agree("e01")
    practise(review, [True, False, True, False] * 2)
    assert review.next_step("e01").kind == "failed"
    assert review.may_answer("e01", review.raters["e01"].shown[0].item, 0) is None


def test_an_expert_answers_the_next_item_or_changes_earlier_ones_and_no_other(folder: Path) -> None:
    review = opened(folder, "review.practice=0", "review.overlap=1", "review.crisis_in_a_row=99")
    review.agree("e01")
    own = review.raters["e01"].shown
    strangers = {each.item for each in review.raters["e02"].shown} - {each.item for each in own}
    assert len(own) == 6 and len(strangers) == 6
    assert all(review.may_answer("e01", item, 0) is None for item in strangers)
    assert review.may_answer("e01", own[1].item, 0) is None and review.may_answer("e01", own[0].item, 1) is None
    review.answer("e01", own[0], given("left", comment="first"))
    assert review.next_step("e01").shown == own[1]
    assert review.may_answer("e01", own[0].item, 0) == own[0]
    review.answer("e01", own[0], given("tie", seconds=5, comment="second"))
    (row,) = answers(folder / "review")
    assert (row["choice"], row["comment"], row["changed"], row["seconds"]) == ("tie", "second", 1, 35)
    events = [json.loads(line) for line in (folder / "review" / "events.jsonl").read_text().splitlines()]
    assert [event["comment"] for event in events if event["kind"] == "answer"] == ["first", "second"]


def test_the_label_is_the_side_on_which_the_expert_saw_the_preferred_reply(folder: Path) -> None:
    review = opened(folder, "review.practice=0", "review.crisis_in_a_row=99")
    for expert, rater in review.raters.items():
        review.agree(expert)
        for shown in rater.shown:
            item = review.item(shown)
            left = item.replies[shown.left]
            review.answer(expert, shown, given("left" if left.startswith("Good") else "right"))
    rows = answers(folder / "review")
    assert len(rows) == 24 and all(row["choice"] == row["label"] for row in rows)
    assert 4 < sum(row["label"] == "left" for row in rows) < 20
    read = read_answers([(f"row {number}", row) for number, row in enumerate(rows)], AnswerFormat())
    assert {(each.rater, each.risk) for each in read} == {
        (e, r) for e in ("e01", "e02") for r in ("none", "suicidal_thoughts")
    }


def test_a_pause_is_held_by_the_server(folder: Path) -> None:
    clock = Clock()
    pairs_file(folder, 12, at_risk=9)
    review = opened(folder, "review.practice=0", "review.crisis_in_a_row=1", "review.break_minutes=10", clock=clock)
    review.agree("e01")
    seen = 0
    while (step := review.next_step("e01")).kind == "item":
        assert step.shown is not None
        clock.now += timedelta(seconds=30)
        review.answer("e01", step.shown, given())
        seen += 1
    assert step.kind == "pause" and step.pause is not None and step.pause.why == "crisis"
    due = review.raters["e01"].next
    assert due is not None and review.item(due).crisis and review.may_answer("e01", due.item, due.repeat) is None
    clock.now = step.pause.until + timedelta(seconds=1)
    assert review.may_answer("e01", due.item, due.repeat) == due


def test_a_withdrawal_deletes_all_that_the_expert_did_and_stays(folder: Path) -> None:
    review = opened(folder, "review.practice=0", "review.crisis_in_a_row=99")
    for expert in ("e01", "e02"):
        review.agree(expert)
        for shown in review.raters[expert].shown[:3]:
            review.answer(expert, shown, given(comment=f"secret of {expert}"))
    review.adverse.report("e01", None, "somebody may be in danger")
    review.withdraw("e01")
    review.answer(
        "e01", review.raters["e01"].shown[3], given(comment="secret of e01")
    )  # sent by another window meanwhile
    review.agree("e01")
    for name in ("events.jsonl", "answers.jsonl", "experts.jsonl"):
        assert "secret of e01" not in (folder / "review" / name).read_text()
    assert [row["rater"] for row in answers(folder / "review")] == ["e02"] * 3
    review.close()
    again = opened(folder, "review.practice=0")
    assert again.next_step("e01").kind == "withdrawn" and not again.raters["e01"].answers
    assert len(again.raters["e02"].answers) == 3
    assert [report["expert"] for report in again.adverse.reports] == ["e01"]


def test_removed_speeches_go_from_items_answers_and_orders(folder: Path) -> None:
    review = opened(folder, "review.practice=0", "review.crisis_in_a_row=99")
    review.agree("e01")
    first, second = review.raters["e01"].shown[:2]
    review.answer("e01", first, given(comment="of the first"))
    review.answer("e01", second, given(comment="of the second"))
    gone = review.item(first)
    review.close()
    assert forget_speeches(ReviewDir(folder / "review"), lambda speech: speech == gone.speech) == 1
    for path in (folder / "review").rglob("*.jsonl"):
        assert gone.item not in path.read_text() and gone.prompt[0]["content"] not in path.read_text()
    again = opened(folder, "review.practice=0", "review.crisis_in_a_row=99")
    assert [row["comment"] for row in answers(folder / "review")] == ["of the second"]
    assert again.raters["e01"].shown[0] == second and len(again.raters["e02"].shown) == 11
    assert forget_speeches(ReviewDir(folder / "review"), lambda speech: speech == gone.speech) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["review.seed=1"], r"review\.seed: .* holds a review with review\.seed=0; give that"),
        (["review.items=5"], r"review\.items=100"),
        (["experts=[e01]"], r"experts=\[e01,e02\]"),
        (["experts=[e02,e01]"], r"experts=\[e01,e02\]"),
    ],
)
def test_a_review_that_has_begun_keeps_its_items_and_experts(folder: Path, options: list[str], message: str) -> None:
    opened(folder).close()
    with pytest.raises(UserError, match=message):
        opened(folder, *options)


def test_an_expert_may_join_where_everyone_sees_all_items(folder: Path) -> None:
    before = open_plan(config_of(folder), ReviewDir(folder / "review"), lambda line: None)
    after = open_plan(config_of(folder, experts="[e01,e02,e03]"), ReviewDir(folder / "review"), lambda line: None)
    assert {name: after.shown[name] for name in ("e01", "e02")} == before.shown
    assert {each.item for each in after.shown["e03"]} == set(before.items)
    assert after.tokens["e01"] == before.tokens["e01"] and len(set(after.tokens.values())) == 3
    assert after == open_plan(config_of(folder, experts="[e01,e02,e03]"), ReviewDir(folder / "review"), print)


def test_a_pseudonym_that_tables_read_as_missing_is_refused(folder: Path) -> None:
    files = ReviewDir(folder / "review")
    with pytest.raises(UserError, match="experts: tables write NA for a missing value"):
        open_plan(config_of(folder, experts="[e01,NA]"), files, print)
    open_plan(config_of(folder), files, lambda line: None)
    with pytest.raises(UserError, match="experts: tables write nan for a missing value"):
        open_plan(config_of(folder, experts="[e01,e02,nan]"), files, print)


def test_only_flagged_items_and_only_those_of_a_list(folder: Path) -> None:
    with pytest.raises(UserError, match=r"review\.only=nowhere\.csv: no such file"):
        open_plan(config_of(folder, "review.only=nowhere.csv"), ReviewDir(folder / "review"), print)
    with pytest.raises(UserError, match=r"review\.flagged=true: .* has no doubtful preference"):
        open_plan(config_of(folder, "review.flagged=true"), ReviewDir(folder / "review"), print)
    whole = open_plan(config_of(folder), ReviewDir(folder / "review"), lambda line: None)
    wanted = sorted(whole.items)[:3]
    (folder / "disagreements.csv").write_text("item,kind\n" + "".join(f"{item},sides\n" for item in wanted))
    other = ReviewDir(folder / "second")
    other.path.mkdir()
    options = (f"review.only={folder / 'disagreements.csv'}", "review.overlap=1")
    plan = open_plan(config_of(folder, *options, experts="[e09]"), other, lambda line: None)
    assert sorted(plan.items) == wanted == sorted(each.item for each in plan.shown["e09"])
    (folder / "disagreements.csv").write_text(f"item,kind\n{wanted[0]},sides\n{wanted[1]}\n")
    with pytest.raises(UserError, match=r"disagreements\.csv row 2: has 1 cell, but the header has 2"):
        open_plan(config_of(folder, *options), ReviewDir(folder / "third"), print)


# Practice items, which come from the rubric's own examples


def test_the_better_reply_is_the_one_that_the_rubric_rates_two_points_higher() -> None:
    items = practice_round(RUBRIC, 20, (0, 0), 0)
    for item in items:
        levels = RUBRIC.principles[item.principle].levels
        rating = {example.reply: number for number, level in levels.items() for example in level.examples}
        left, right = rating[item.left], rating[item.right]
        assert (left, right) == item.ratings and abs(left - right) >= 2
        assert item.better == ("left" if left > right else "right")
        assert item.speech in RUBRIC.principles[item.principle].speeches.values()
    assert 3 < sum(item.better == "left" for item in items) < 17


def test_a_round_goes_through_the_principles_and_the_next_one_shows_others() -> None:
    first, second = practice_round(RUBRIC, 7, (0, 0), 0), practice_round(RUBRIC, 7, (0, 0), 1)
    assert Counter(item.principle for item in first) == dict.fromkeys(PRINCIPLES, 1)
    assert not {(item.left, item.right) for item in first} & {(item.left, item.right) for item in second}
    assert [item.left for item in first] != [item.left for item in practice_round(RUBRIC, 7, (0, 1), 0)]


def test_the_shipped_rubric_has_enough_for_the_default_rounds() -> None:
    assert len(practice_pairs(RUBRIC)) >= 2 * 20


# A lost log: the table of answers is the only witness, and is not overwritten


def _half_gone(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _without_the_last_line(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        (Path.unlink, "e01's answer to "),
        (lambda path: path.write_bytes(b""), " and 1 more"),
        (_half_gone, "e01's answer to "),
        (_without_the_last_line, "e01's answer to "),
    ],
    ids=["lost", "emptied", "cut inside a line", "a change cut off"],
)
def test_a_log_that_lacks_answers_is_refused_and_nothing_is_changed(
    damage: Callable[[Path], object], lost: str, folder: Path
) -> None:
    review = opened(folder, "review.practice=0", "review.crisis_in_a_row=99")
    review.agree("e01")
    for shown in review.raters["e01"].shown[:4]:
        review.answer("e01", shown, given())
    review.answer("e01", review.raters["e01"].shown[0], given("right"))
    review.close()
    files = ReviewDir(folder / "review")
    damage(files.events)
    before = {path: path.read_bytes() for path in files.path.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=r"events\.jsonl lacks answers that answers\.jsonl has") as refused:
        opened(folder, "review.practice=0", "review.crisis_in_a_row=99")
    assert lost in str(refused.value) and "\n" not in str(refused.value)
    assert {path: path.read_bytes() for path in before} == before
    files.answers.rename(folder / "kept.jsonl")
    opened(folder, "review.practice=0", "review.crisis_in_a_row=99").close()


def test_a_withdrawal_that_was_killed_before_the_tables_is_finished(folder: Path) -> None:
    review = opened(folder, "review.practice=0")
    review.agree("e01")
    review.answer("e01", review.raters["e01"].shown[0], given())
    table = (folder / "review" / "answers.jsonl").read_bytes()
    review.withdraw("e01")
    review.close()
    (folder / "review" / "answers.jsonl").write_bytes(table)
    unfinished = temporary_name(folder / "review" / "events.jsonl")  # of a withdrawal of another expert, killed earlier
    unfinished.write_bytes(table)
    opened(folder, "review.practice=0").close()
    assert (folder / "review" / "answers.jsonl").read_bytes() == b"" and not unfinished.exists()
