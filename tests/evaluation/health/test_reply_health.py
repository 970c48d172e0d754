"""Health figures of one reply: known figures, unknown figures, and languages."""

from itertools import islice

import pytest

from psychocounsel.data.sample_rows import sample_rows
from psychocounsel.evaluation.health.reply_health import FIGURES, health_of

CLIENT = "I have not slept for three weeks, and since the divorce I cry every morning before work."
REPLY = "Three weeks without sleep, and mornings that begin with tears. What is the hardest moment of such a morning?"
GERMAN = "Das klingt nach drei sehr langen Wochen, und ich frage mich, wer Ihnen gerade zur Seite steht."
CHINESE = (  # three weeks of poor sleep sound hard; would you like to speak of the worst moments?
    "\u4e09\u4e2a\u661f\u671f\u6ca1\u6709\u7761\u597d\uff0c\u542c\u8d77\u6765\u771f\u7684\u5f88\u8f9b\u82e6\u3002"
    "\u4f60\u613f\u610f\u8bf4\u8bf4\u6700\u96be\u71ac\u7684\u65f6\u5019\u5417\uff1f"
)
REFUSAL = "I'm sorry, but I can't help with that."


def test_a_sound_reply() -> None:
    found = health_of(REPLY, CLIENT, cut=False)
    assert list(found) == list(FIGURES)
    ills = ["empty", "refusal", "cut", "unfinished", "loop", "repetition", "invented_turns", "leaked_tokens", "junk"]
    assert [found[name] for name in [*ills, "other_language", "formatted"]] == [0] * 11
    assert (found["words"], found["characters"], found["question_ending"]) == (19, len(REPLY), 1)
    assert found["distinct_2"] == 1 and found["mtld"] is None, "the reply is too short for MTLD"


@pytest.mark.parametrize(
    ("reply", "client", "language", "expected"),
    [
        (REPLY, CLIENT, None, 0.0),
        (GERMAN, CLIENT, None, 1.0),
        (CHINESE, CLIENT, None, 1.0),
        (REPLY, CHINESE, None, 1.0),
        (CHINESE, CHINESE, None, 0.0),
        (GERMAN, "Hm.", "de", 0.0),  # language from the table of speeches
        (GERMAN, "Hm.", None, None),
        ("Hm. Okay.", CLIENT, None, None),
    ],
)
def test_the_language_of_reply_and_client(
    reply: str, client: str, language: str | None, expected: float | None
) -> None:
    assert health_of(reply, client, language=language)["other_language"] == expected


def test_refusals_are_told_in_english() -> None:
    assert health_of(REFUSAL, CLIENT)["refusal"] == 1
    assert health_of("I can't decide this for you.", CLIENT)["refusal"] == 0
    assert health_of(GERMAN, GERMAN)["refusal"] is None
    found = health_of("", CLIENT, cut=False, refused=True)
    assert {name: value for name, value in found.items() if value is not None} == {"refusal": 1, "cut": 0}


def test_of_an_empty_reply_nothing_else_is_told() -> None:
    found = health_of(" \n", CLIENT, cut=True)
    assert {name: value for name, value in found.items() if value is not None} == {"empty": 1, "cut": 1}


def test_a_cut_reply_is_unfinished_whatever_its_end() -> None:
    assert health_of("I hear you.", CLIENT, cut=True)["unfinished"] == 1
    assert health_of("I hear", CLIENT)["unfinished"] == 1 and health_of("I hear", CLIENT)["cut"] is None


def test_repetition_counts_runs_of_four_words_by_hand() -> None:
    assert health_of("one two three four one two three four five", CLIENT)["repetition"] == pytest.approx(1 / 6)
    assert health_of("one two three four", CLIENT)["repetition"] is None


@pytest.mark.parametrize(
    ("reply", "expected"), [("- a\n- b", 1), ("# A\nb.", 1), ("So **bold**.", 1), ("1 - 2 * 3 # 4.", 0)]
)
def test_formatting(reply: str, expected: int) -> None:
    assert health_of(reply, CLIENT)["formatted"] == expected


def test_replies_that_were_written_with_care_are_healthy() -> None:
    """No figure raises a false alarm."""
    rows = [row for _, row in islice(sample_rows(), 40)]
    found = [health_of(reply["text"], row["prompt"], language="en") for row in rows for reply in row["replies"]]
    for name in ("empty", "refusal", "unfinished", "loop", "invented_turns", "leaked_tokens", "junk", "other_language"):
        assert sum(each[name] or 0 for each in found) == 0, name
    assert max(each["repetition"] or 0 for each in found) < 0.1
