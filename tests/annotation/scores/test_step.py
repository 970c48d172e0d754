"""The step `scores` with scripted annotators: the whole table, its figures, and the number of calls."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from psychocounsel.annotation.removal import Tombstones, renew_records
from psychocounsel.annotation.scores.step import estimate, run
from psychocounsel.annotation.scores.votes import RATED, VOTES
from psychocounsel.asking.language_model import Answer
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.storage.files import read_mapping, write_json
from tests.support import scripted_annotator
from tests.support.annotation_tables import annotation_dir, context, reply, speech
from tests.support.answering import no_proxy, serving
from tests.support.asking import member
from tests.support.scripted import Script, number_of
from tests.support.scripted_annotator import annotator, judgements, panel, said

__all__ = ["no_proxy"]

BUDGET = {"cost": None, "calls": None}
REFUSAL = "I'm sorry, but I can't help with rating this reply."


@pytest.fixture(autouse=True)
def fresh_script() -> None:
    scripted_annotator.script.clear()
    scripted_annotator.asked.clear()


def write(name: str, text: str, *answers: Answer) -> None:
    scripted_annotator.script[name, text] = [*answers]


def rows_of(files: AnnotationDir) -> list[dict[str, Any]]:
    table = pq.read_table(files.votes)
    assert table.schema.equals(VOTES)
    return table.to_pylist()


SCRIPT: dict[str, tuple[list[Answer], str, int]] = {  # text -> answers, outcome, attempts
    "good": ([said(judgements([5, 4, 3, 2, 1, "not applicable", 5], "GOOD"))], "rated", 1),
    "misquoted": ([said(judgements([4] * 7, "never said"))], "rated", 1),
    "late": ([said("{"), said(judgements([6] * 7)), said(judgements([3] * 7))], "rated", 3),
    "wrong": ([said(judgements([7] * 7)), said(judgements(["3"] * 7)), said(judgements([2.5] * 7))], "unparsable", 3),
    "prose": ([said(REFUSAL)], "refused", 1),
    "refused": ([Answer("refused", model="m-1")], "refused", 1),
    "filtered": ([Answer("filtered")], "filtered", 1),
    "cut": ([Answer("cut", json.dumps(judgements([5] * 7)), "m-2")], "cut", 1),
    "failed": ([Answer("failed")], "failed", 0),
}


def scripted(tmp_path: Path) -> AnnotationDir:
    for text, (answers, _, _) in SCRIPT.items():
        write("a", text, *answers)
    texts = [*SCRIPT, None, "good"]  # a reply that was not written, and one that was written twice
    return annotation_dir(tmp_path, [speech("s")], [reply("s", n, text) for n, text in enumerate(texts)], [])


def test_every_answer_of_an_annotator_is_kept_as_what_it_is(tmp_path: Path) -> None:
    files = scripted(tmp_path)
    figures = run(context(files, lines := [], annotator=annotator("a"), budget=BUDGET))
    rows = {row["reply"].removeprefix("s-"): row for row in rows_of(files)}
    assert len(rows_of(files)) == len(rows) == len(SCRIPT)
    for text, (answers, outcome, attempts) in SCRIPT.items():
        row = rows[text]
        assert (row["outcome"], row["attempts"]) == (outcome, attempts)
        assert row["model"] == answers[-1].model
        numbers = [row[f"{name}_rating"] for name in PRINCIPLES]
        assert (row["empathy_reason"] == "Because of empathy.") == (outcome == RATED)
        expected = {"good": [5, 4, 3, 2, 1, None, 5], "misquoted": [4] * 7, "late": [3] * 7}
        assert numbers == expected.get(text, [None] * 7), "a row without a rating has a score"
    assert figures["outcomes"] == {"rated": 3, "refused": 2, "filtered": 1, "cut": 1, "unparsable": 1, "failed": 1}
    assert figures["quotes"] == {"a": {"found": 7, "absent": 7, "not_in_reply": 7}}
    assert figures["unreadable"]["a"] == {
        "empathy: its rating is not from 1 to 5": 2,
        "empathy: its rating is not a whole number": 1,
        "empathy: its rating is text": 1,
        "is not valid JSON": 1,
    }
    assert figures["annotators"]["a"]["models"] == {"m-1": 6, "m-2": 1, "not said": 2}
    assert any("its server gave 2 model names: m-1, m-2" in line for line in lines)
    assert figures["annotators"]["a"]["ratings"]["autonomy"] == {"3": 1, "4": 1, "not applicable": 1}


def test_the_same_again_asks_only_what_failed(tmp_path: Path) -> None:
    files = scripted(tmp_path)
    first = context(files, annotator=annotator("a"), budget=BUDGET)
    figures = run(first)
    before, table = Counter(scripted_annotator.asked), rows_of(files)
    assert before == {("a", text): max(attempts, 1) for text, (_, _, attempts) in SCRIPT.items()}
    assert estimate(first).calls == {"a": 1}, "only the failed call is left to buy"
    write("a", "failed", said(judgements([1] * 7)))
    again = run(first)
    assert scripted_annotator.asked - before == {("a", "failed"): 1}
    assert [row for row in rows_of(files) if row["reply"] != "s-failed"] == [
        row for row in table if row["reply"] != "s-failed"
    ]
    assert again["outcomes"]["rated"] == figures["outcomes"]["rated"] + 1


def test_a_prompt_that_is_too_long_for_an_annotator_of_ones_own_is_a_failed_vote(tmp_path: Path) -> None:
    write("a", "long", Answer("too_long"))
    files = annotation_dir(tmp_path, [speech("s")], [reply("s", 0, "long")], [])
    run(context(files, annotator=annotator("a"), budget=BUDGET))
    assert [row["outcome"] for row in rows_of(files)] == ["failed"]


def test_missing_ratings_are_counted_by_risk_and_topic(tmp_path: Path) -> None:
    """2 of 3 votes about abuse are missing and 1 of 5 others, both in the figures and in the printed table."""
    outcomes = {"a1": "rated", "a2": "refused", "a3": "filtered", "b1": "rated", "b2": "rated", "b3": "rated"}
    outcomes |= {"b4": "rated", "b5": "cut"}
    for text, outcome in outcomes.items():
        write("a", text, said(judgements([3] * 7)) if outcome == "rated" else Answer(outcome))
    speeches = [speech("a", risk="abuse", topic="family"), speech("b", topic=None)]
    files = annotation_dir(tmp_path, speeches, [reply(text[0], int(text[1]), text) for text in outcomes], [])
    figures = run(context(files, lines := [], annotator=annotator("a"), budget=BUDGET))
    zero = {"rated": 0, "refused": 0, "filtered": 0, "cut": 0, "unparsable": 0, "failed": 0, "not_asked": 0}
    abuse = {**zero, "rated": 1, "refused": 1, "filtered": 1, "missing": pytest.approx(2 / 3)}
    others = {**zero, "rated": 4, "cut": 1, "missing": pytest.approx(1 / 5)}
    assert figures["missing"] == {
        "risk": {"abuse": abuse, "none": others},
        "topic": {"family": abuse, "not given": others},
    }
    (line,) = [line.split() for line in lines if line.split()[:1] == ["abuse"]]
    assert line == ["abuse", "3", "1", "1", "0", "0", "0", "0", "66.7%"]


def test_ratings_that_nobody_was_asked_for_are_missing_as_well(tmp_path: Path) -> None:
    """The only annotator must not see crises: their risk is in the table, with two missing votes for each of two replies."""
    write("theirs", "text", *(said(judgements([number] * 7)) for number in (2, 3)))
    write("theirs", "more", *(said(judgements([number] * 7)) for number in (2, 3)))
    speeches = [speech("1"), speech("2", crisis=True, risk="abuse"), speech("3", crisis=True, risk="overdose")]
    replies = [
        reply(each["speech"], n, words) for each in speeches[:2] for n, words in enumerate(("text", "more", None))
    ]
    files = annotation_dir(tmp_path, speeches, replies, [])
    settings = annotator("theirs", third_party=True, temperature=0.7)
    figures = run(context(files, lines := [], annotator=settings, budget=BUDGET, scores={"votes": 2}))
    by_risk = {
        value: (each["rated"], each["not_asked"], each["missing"]) for value, each in figures["missing"]["risk"].items()
    }
    assert by_risk == {"none": (4, 0, 0), "abuse": (0, 4, 1)}, "a speech without replies wants no rating"
    assert any(line.split()[:2] == ["abuse", "4"] and line.endswith("100.0%") for line in lines)
    files.steps.mkdir(exist_ok=True)
    write_json(files.step("scores"), {"figures": figures})
    renew_records(files, Tombstones.of(files))
    assert read_mapping(files.step("scores"))["figures"] == figures, "a removal gives other counts"


def test_a_panel_votes_and_repeats(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for text in ("one", "two"):
            # Three votes and a repetition, in the order in which they are asked: all differ.
            write(name, text, *(said(judgements([number] * 7)) for number in (1, 2, 3, 4)))
    files = annotation_dir(tmp_path, [speech("s")], [reply("s", 0, "one"), reply("s", 1, "two")], [])
    settings = {"votes": 3, "repeat": 1.0}
    members = panel(annotator("a", temperature=0.7), annotator("b", temperature=0.7))
    run(context(files, annotator=members, budget=BUDGET, scores=settings))
    rows = rows_of(files)
    keys = [(row["reply"], row["annotator"], row["repeat"], row["vote"]) for row in rows]
    rounds = [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert keys == [(f"s-{text}", name, *each) for text in ("one", "two") for name in ("a", "b") for each in rounds]
    for name in ("a", "b"):
        for text in ("one", "two"):
            mine = [row["clarity_rating"] for row in rows if (row["annotator"], row["reply"]) == (name, f"s-{text}")]
            assert sorted(mine) == [1, 2, 3, 4], "a vote was changed"
    with pytest.raises(
        UserError, match=r"all votes of b would be equal, .* temperature: 0.7 in annotator.members\[1\], or"
    ):
        run(context(files, annotator=panel(annotator("a"), annotator("b", temperature=0)), scores={"votes": 2}))
    with pytest.raises(UserError, match="two models have the name a"):
        run(context(files, annotator=panel(annotator("a"), annotator("a")), budget=BUDGET))


def test_joint_ratings_belong_to_the_replies_as_they_were_shown(tmp_path: Path) -> None:
    """A server that rates each reply by the digit in its text; its answer about another speech has one reply too few."""

    def rate(payload: Any) -> str:
        shown = payload["messages"][-1]["content"]
        digits = [int(line.split()[1]) for line in shown.splitlines() if line.startswith("text ")]
        if not digits:
            return "ready"  # answers the check at the start
        assert set(payload["response_format"]["json_schema"]["schema"]["properties"]) == {
            f"reply_{place + 1}" for place in range(len(digits))
        }
        rated = {f"reply_{place + 1}": judgements([digit] * 7) for place, digit in enumerate(digits)}
        if "short" in shown:
            rated.pop(f"reply_{len(digits)}")
        return json.dumps(rated)

    speeches = [speech(f"{number:02d}") for number in range(12)] + [speech("x", "short")]
    replies = [reply(each["speech"], n, f"text {n + 1}") for each in speeches for n in range(3)]
    files = annotation_dir(tmp_path, speeches, replies, [])
    with serving(Script(rate)) as server:
        settings = member(server.address, "joint", max_tokens=1024)
        figures = run(context(files, annotator=settings, budget=BUDGET, scores={"joint": True, "seed": 4}))
        longest = {payload["max_tokens"] for _, payload in server.asked if "response_format" in payload}
    assert longest == {4 * 1024}, "the annotator's max_tokens for each of replies.per_speech"
    assert figures["unreadable"] == {"joint": {"rates fewer replies than were shown": 3}}
    rows = rows_of(files)
    assert all(row["joint"] for row in rows)
    for row in rows:
        if row["speech"] == "x":
            assert (row["outcome"], row["safety_rating"], row["attempts"]) == ("unparsable", None, 3)
        else:
            assert (row["outcome"], row["safety_rating"]) == ("rated", int(row["reply"][-1]))
    by_position = Counter((row["position"], row["reply"][-1]) for row in rows)
    assert len(by_position) == 9, "each reply was shown at each place"


def test_crises_and_other_languages_are_kept_from_those_who_must_not_see_them(tmp_path: Path) -> None:
    speeches = [speech("1"), speech("2", crisis=True), speech("3", language="de")]
    files = annotation_dir(tmp_path, speeches, [reply(each["speech"], 0, "text") for each in speeches], [])
    for name in ("own", "theirs", "german"):
        write(name, "text", said(judgements([3] * 7)))
    members = [annotator("own"), annotator("theirs", third_party=True), annotator("german", language="de")]
    figures = run(context(files, annotator=panel(*members), budget=BUDGET))
    assert {(row["annotator"], row["speech"]) for row in rows_of(files)} == {
        *(("own", each) for each in "123"),
        *(("theirs", each) for each in "13"),
        ("german", "3"),
    }
    assert figures["skipped"] == {"theirs": {"crisis": 1}, "german": {"language": 2}}
    sent = context(files, annotator=panel(*members), budget=BUDGET, crisis_to_third_parties=True)
    assert ("theirs", "2") not in {(row["annotator"], row["speech"]) for row in rows_of(files)}
    run(sent)
    assert ("theirs", "2") in {(row["annotator"], row["speech"]) for row in rows_of(files)}


def test_a_server_that_misbehaves(tmp_path: Path) -> None:
    """Wrong scales, broken JSON, refusals and filters on demand: every rating is kept once, and none is invented."""

    def rate(payload: Any) -> str:
        number = number_of(payload)
        ratings = [1 + (number >> place) % 5 for place in range(7)]
        kind = number % 5
        if kind == 0:
            return json.dumps(judgements([*ratings[:6], 9]))
        return json.dumps(judgements(ratings))[: -1 if kind == 1 else None]

    script = Script(rate, refusal=0.1, filtered=0.1, cut=0.05, error=0.05)
    speeches = [speech(f"{number:02d}") for number in range(40)]
    replies = [reply(each["speech"], n, f"text {n}") for each in speeches for n in range(2)]
    files = annotation_dir(tmp_path, speeches, replies, [])
    with serving(script) as server:
        run(context(files, annotator=member(server.address, max_tokens=999), budget=BUDGET, scores={"retries": 1}))
        payloads = [payload for _, payload in server.asked if len(payload["messages"]) == 2]
    rows = rows_of(files)
    assert len(rows) == len({row["reply"] for row in rows}) == 80
    assert {row["outcome"] for row in rows} >= {"rated", "refused", "filtered", "cut", "unparsable"}
    for row in rows:
        of, text = row["reply"].split("-")
        asked = [each["messages"][1]["content"] for each in payloads]
        mine = [each for each, words in zip(payloads, asked, strict=True) if f"client {of}." in words and text in words]
        numbers = tuple(row[f"{name}_rating"] for name in PRINCIPLES)
        if row["outcome"] == "rated":
            given = {tuple(1 + (number_of(each) >> place) % 5 for place in range(7)) for each in mine}
            assert numbers in given
            assert row["model"] == "served-2026"
        else:
            assert numbers == (None,) * 7
