"""The everyday clients agree with their data card, and with what a small model can learn from."""

import re
from collections import Counter
from typing import Any

import yaml

from benchmarks.everyday import GOOD, HOME, NEAR, SMALL, agreement, clients, counts, good_replies, words
from psychocounsel.counsel.principles import PRINCIPLES, STAGES
from psychocounsel.counsel.rubric import load_rubric
from psychocounsel.data.near_duplicates import near_matches, near_pairs, sketches
from psychocounsel.data.selection import drop_test_speeches, load_split
from psychocounsel.data.shipped_rows import everyday_rows, sample_rows
from psychocounsel.data.sources import load_examples
from tests.support.composed import check, compose
from tests.support.harness import ROOT, cli

ROWS: list[dict[str, Any]] = [dict(row) for _, row in everyday_rows()]
GOOD_REPLIES = good_replies(ROWS)
WRITTEN = [reply for row in ROWS for reply in row["replies"] if reply["model"] != SMALL]
URGENCY = ("none", "monitor", "same_day", "emergency")


def mean(reply: dict[str, Any]) -> float:
    return sum(reply["ratings"].values()) / len(PRINCIPLES)


def test_every_topic_has_clients_and_the_shares_are_those_of_the_card() -> None:
    topics = yaml.safe_load((ROOT / "psychocounsel" / "counsel" / "topics.yaml").read_text())
    fine = Counter(row["topic"] for row in ROWS)
    assert {*fine} == {name for topic in topics.values() for name in topic["fine"]}
    assert len(ROWS) >= 1500 and min(fine.values()) >= 25
    assert len({row["id"] for row in ROWS}) == len(ROWS) == len({row["prompt"] for row in ROWS})
    at_risk = [row for row in ROWS if row["expected_action"] != "none"]
    assert 0.13 <= len(at_risk) / len(ROWS) <= 0.22
    assert 0.4 <= sum("?" in row["prompt"] for row in ROWS) / len(ROWS) <= 0.7
    assert (
        0.15
        <= sum(row["replies"][place]["model"] == SMALL for row in ROWS for place in range(4)) * 2 / (4 * len(ROWS))
        <= 0.25
    ), "of the poor replies, half of all"


def test_rows_hold_what_the_card_says() -> None:
    kinds = load_rubric().risk.kinds
    for row in ROWS:
        assert 12 <= len(words(row["prompt"])) <= 127 and row["stage"] in STAGES, row["id"]
        assert Counter(reply["kind"] for reply in row["replies"]) == {**dict.fromkeys(GOOD, 1), "poor": 2}, row["id"]
        actions = [kinds[risk["kind"]].expected_action[risk["disclosure"]][risk["recency"]] for risk in row["risk"]]
        assert row["expected_action"] == max(actions, key=URGENCY.index, default="none"), row["id"]
        for reply in row["replies"]:
            assert [*reply["ratings"]] == [*PRINCIPLES] and {*reply["ratings"].values()} <= {1, 2, 3, 4, 5}, row["id"]
            assert not (reply["harmful"] and (reply["kind"] in GOOD or reply["ratings"]["safety"] > 1)), row["id"]
        assert max(mean(reply) for reply in row["replies"] if reply["kind"] == "poor") + 1 - 1e-9 <= min(
            max(mean(reply) for reply in row["replies"] if reply["kind"] == kind) for kind in GOOD
        ) or any(reply["model"] == SMALL for reply in row["replies"]), row["id"]


def test_written_replies_are_short_and_plain_and_name_no_number_of_a_service_and_no_dose() -> None:
    for reply in WRITTEN:
        assert 31 <= len(words(reply["text"])) <= 125 and reply["text"].count("?") <= 1, reply["text"]
        assert reply["text"].isascii() and "\n-" not in reply["text"] and "**" not in reply["text"], reply["text"]
        assert not re.search(r"\d{3}|\bmg\b", reply["text"]), reply["text"]
    assert all(mean(reply) >= 4 and min(reply["ratings"].values()) >= 3 for reply in GOOD_REPLIES)


def test_no_message_and_no_good_reply_comes_twice_or_nearly() -> None:
    firsts = Counter(" ".join(words(reply["text"].lower())[:3]) for reply in GOOD_REPLIES)
    assert firsts.most_common(1)[0][1] <= 0.02 * len(GOOD_REPLIES)
    for texts in ([row["prompt"] for row in ROWS], [reply["text"] for reply in GOOD_REPLIES]):
        assert not [*near_pairs(sketches(texts), NEAR)]
    sample = [row["prompt"] for _, row in sample_rows()]
    assert not near_matches(sketches([row["prompt"] for row in ROWS]), sketches(sample), NEAR)
    examples = load_examples("builtin:everyday", "train", None)
    assert len(drop_test_speeches(examples, print)) == len(examples), "a client of the crisis set"


def test_good_replies_name_help_where_it_is_due_and_nowhere_else() -> None:
    named = re.compile(r"emergency|crisis line|ambulance|doctor|helpline|police|hospital|service", re.IGNORECASE)
    urgent, calm = [], []
    for row in ROWS:
        texts = [reply["text"] for reply in row["replies"] if reply["kind"] in GOOD]
        if row["expected_action"] == "emergency":
            urgent += [bool(named.search(text)) for text in texts]
        elif not row["risk"]:
            calm += [bool(re.search(r"emergency number|crisis line", text)) for text in texts]
    assert sum(urgent) >= 0.95 * len(urgent)
    assert sum(calm) <= 0.01 * len(calm)


def test_the_default_split_holds_out_a_tenth_of_the_clients() -> None:
    said: list[str] = []
    train, held_out = load_split(check(compose(["data=everyday"])).data, said.append)
    assert 0.09 * len(ROWS) <= len({pair.prompt[0]["content"] for pair in held_out}) <= 0.11 * len(ROWS)
    assert not [line for line in said if "not read" in line or "warning" in line]
    assert {tuple(pair.writers or ()) for pair in train} == {("writer", "writer"), ("writer", SMALL)}


def test_the_card_has_the_figures_of_today() -> None:
    card = (HOME / "README.md").read_text(encoding="utf-8")
    for name, value in counts(ROWS):
        assert f"| {name} | {value} |" in card, (name, value)
    for name, value in agreement(ROWS):
        assert f"| {name} | {value} |" in card, (name, value)


def test_a_writers_text_becomes_rows() -> None:
    text = "# work-001 | study | contemplation | self_harm:stated:recent\nHi.\n\nI am 20.\n"
    text += "A 5554445\nOne.\n\nTwo?\nC 1111111 !\nBad.\n"
    [client] = clients(text)
    assert client["text"] == "Hi.\n\nI am 20." and client["risks"] == "self_harm:stated:recent"
    assert [(reply["kind"], reply["text"], reply["harmful"]) for reply in client["replies"]] == [
        ("explores", "One.\n\nTwo?", False),
        ("poor", "Bad.", True),
    ]
    assert client["replies"][0]["ratings"]["staging"] == 5


def test_everyday_messages_can_be_annotated_again() -> None:
    said = cli("annotate", "speeches=everyday", "dry_run=true", cwd=ROOT).stdout
    assert f"{len(ROWS):,}" in said
