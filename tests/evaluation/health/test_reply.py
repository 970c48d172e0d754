"""Health figures of one reply: words, marks of broken replies, known and unknown figures, languages."""

import itertools
from itertools import islice

import numpy as np
import pytest

from psychocounsel.counsel.system_prompt import COUNSELLOR
from psychocounsel.data.shipped_rows import sample_rows
from psychocounsel.evaluation.health.reply import (
    ECHO,
    FIGURES,
    distinct_2,
    ends_unfinished,
    has_junk,
    has_loop,
    health_of,
    invents_turns,
    leaks_tokens,
    mtld,
    unhealthy,
    words_of,
)
from psychocounsel.metrics.intervals import numbered

# Loops, repetition and diversity of words equal brute force and figures computed by hand.

SIX = list("abcdab")


def looped(words: list[int]) -> bool:
    """Return True by the definition: some stretch, from any start to any end, equals itself shifted by a period."""
    count = len(words)
    for start, end in itertools.combinations(range(count + 1), 2):
        stretch = words[start:end]
        for period in range(1, len(stretch) // 2 + 1):
            if all(one == other for one, other in zip(stretch, stretch[period:], strict=False)):
                copies = len(stretch) / period
                anywhere = copies >= 3 and len(stretch) >= 12
                if anywhere or (end == count and copies >= 2 and len(stretch) >= 20):
                    return True
    return False


def test_loops_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        parts = ((9, rng.integers(0, 4)), (4, rng.integers(1, 11)), (9, rng.integers(0, 3)))
        before, span, after = (rng.integers(0, words, size) for words, size in parts)
        words = [*before, *np.tile(span, 8)[: rng.integers(6, 26)], *after]
        found.append(looped(words))
        assert has_loop(np.array(words)) == found[-1], words
    assert 50 < sum(found) < 150, "both outcomes occur"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I hear you. " * 4, True),
        ("I hear you. " * 3, False),  # nine words: emphasis
        ("Breathe in, breathe out. Breathe in, breathe out.", False),
        (
            "What would help you to feel a little safer tonight? " * 2,
            True,
        ),  # a whole sentence again, where the reply ends
        ("What would help you to feel a little safer tonight? " * 2 + "Tell me.", False),
        ("No, no, no, no.", False),
        ("\u6211\u542c\u5230\u4f60\u4e86\u3002" * 3, True),
        ("", False),
    ],
)
def test_loops_of_texts(text: str, expected: bool) -> None:
    assert has_loop(numbered(words_of(text))) == expected


def test_words_of_several_scripts() -> None:
    assert words_of("**You\u2019re** tired, aren't you? 2 p.m.") == ["you're", "tired", "aren't", "you", "2", "p", "m"]
    assert words_of("\u4f60\u597d, Anna\uff01") == ["\u4f60", "\u597d", "anna"]


def test_distinct_pairs_by_hand() -> None:
    assert distinct_2(list("ababa")) == 2 / 4
    assert distinct_2(["a"]) is None


def test_mtld_by_hand() -> None:
    """Computed by hand from McCarthy and Jarvis (2010): factors end at a ratio of 0.72 or below, the rest counts in part."""
    # "a b c d a b": ratios 1, 1, 1, 1, 4/5 = 0.8, 4/6 = 0.667, so a factor every six words, in both directions.
    assert mtld(SIX * 10) == pytest.approx(6)
    # Ten such factors and a rest of four, read forwards "a b c a": ratio 3/4, (1 - 0.75) / 0.28 = 0.892857 of a factor.
    forwards = 64 / (10 + 0.25 / 0.28)
    # Backwards it begins "a c b a b": 3/5 is a factor, and so on; by the recursive definition below.
    words = [*SIX * 10, *"abca"]
    backwards = 64 / factors_by_hand(words[::-1])
    assert factors_by_hand(words) == pytest.approx(10 + 0.25 / 0.28)
    assert mtld(words) == pytest.approx((forwards + backwards) / 2)


def factors_by_hand(words: list[str]) -> float:
    """Count factors recursively: the first stretch with a ratio of 0.72 or below is one factor; then the rest follows."""
    for end in range(1, len(words) + 1):
        if len(set(words[:end])) / end <= 0.72:
            return 1 + factors_by_hand(words[end:])
    return (1 - len(set(words)) / len(words)) / 0.28 if words else 0.0


def test_mtld_is_not_told_of_short_or_wholly_different_words() -> None:
    assert mtld(["word"] * 49) is None
    assert mtld([str(number) for number in range(60)]) is None
    assert mtld(["word"] * 60) == pytest.approx(2), "a factor every two words, because 1/2 is below 0.72"


# Unfinished ends, invented turns, leaked tokens and junk in hand-made texts: true cases and look-alikes.

ENDS = {
    "What was that like?": False,
    'She said, "I am done."': False,
    "**Take your time.**": False,
    "(We can stop here.)": False,
    "I am glad you told me \U0001f49b": False,
    "I am glad you told me :)": False,
    "\u6211\u542c\u5230\u4f60\u4e86\u3002": False,
    "\u0647\u0644 \u0623\u0646\u062a \u0628\u062e\u064a\u0631\u061f": False,
    "\u092e\u0948\u0902 \u0938\u0941\u0928 \u0930\u0939\u093e \u0939\u0942\u0901\u0964": False,
    "It sounds as if you": True,
    "It sounds hard,": True,
    "Three things could help:": True,
    '"It sounds as if you"': True,
    "\u6211\u542c\u5230\u4f60": True,
    "You could try:\n- a walk\n- a call to a friend": None,
    "You could try:\n1. a walk\n2) a call": None,
    "\u0e09\u0e31\u0e19\u0e40\u0e02\u0e49\u0e32\u0e43\u0e08": None,
}


@pytest.mark.parametrize(("text", "expected"), ENDS.items())
def test_ends(text: str, expected: bool | None) -> None:
    assert ends_unfinished(text) is expected
    assert ends_unfinished(text + " \n") is expected


TURNS = {
    "That sounds hard.\nClient: I feel worse.": True,
    "That sounds hard.\n\n**User**: I feel worse.": True,
    "Therapist: That sounds hard.": True,
    "That sounds hard. Client: Yes.": True,
    "That sounds hard.\n### Human: Yes.": True,
    "Das klingt schwer.\nKlientin: Ja.": True,
    "\u6211\u542c\u5230\u4f60\u4e86\u3002\n\u6765\u8bbf\u8005\uff1a\u662f\u7684": True,
    "You could tell your therapist: I need more time.": False,
    "People who may help:\n- Therapist: weekly\n2. **Therapist:** weekly": False,
    "As a client you decide. Users of such groups say so.": False,
    "Remember this: you are not alone.": False,
}


@pytest.mark.parametrize(("text", "expected"), TURNS.items())
def test_turns(text: str, expected: bool) -> None:
    assert invents_turns(text) is expected


LEAKS = {
    "I hear you.<|im_end|>": True,
    "I hear you.<|start_header_id|>user": True,
    "[INST] I hear you.": True,
    "I hear you.</s>": True,
    "<think>\nThe client": True,
    "I hear you, {{ name }}.": True,
    "{% if messages %}": True,
    "I hear you.\n### Response:\nI hear": True,
    "\u0120I\u0120hear\u0120you": True,
    "I hear you <3 and it is 5 < 6 > 4.": False,
    "Call [number] or a friend (inside 24 h).": False,
    "### Response to panic\nBreathe.": False,
    "I wrote [S] beside it; {this} too.": False,
}


@pytest.mark.parametrize(("text", "expected"), LEAKS.items())
def test_leaked_tokens(text: str, expected: bool) -> None:
    assert leaks_tokens(text) is expected


JUNK = {
    "I hear you!!!!!!!!": True,
    "I hear yoooooooou": True,
    "I hear \ufffd you": True,
    "I hear\x00 you": True,
    "$+<>^|$+<>^|$+<>^|$+<>^|$": True,
    "I hear you!!! Really... So:\n----------------\n**********": False,
    "I hear you \U0001f49b\U0001f49b\U0001f49b": False,
    "\u092e\u0948\u0902 \u0938\u0941\u0928 \u0930\u0939\u093e \u0939\u0942\u0901\u0964": False,
    "\U0001f469\u200d\U0001f469\u200d\U0001f466 your family": False,
    "a\tb\r\nc": False,
}


@pytest.mark.parametrize(("text", "expected"), JUNK.items())
def test_junk(text: str, expected: bool) -> None:
    assert has_junk(text) is expected


# Health figures of one reply: known figures, unknown figures, and languages.

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


def test_no_reply_of_the_sample_is_an_echo_or_a_recital() -> None:
    """The limits are above what the good and bad replies of the sample reach."""
    rows = [row for _, row in sample_rows()]
    found = [
        health_of(reply["text"], row["prompt"], system_prompt=COUNSELLOR) for row in rows for reply in row["replies"]
    ]
    assert max(each["copied"] or 0 for each in found) < ECHO and not any(each["echo"] for each in found)
    assert not any(each["recital"] for each in found)


CLIENT_WORDS = "I lie awake until four every night. My sister says it will pass, but she does not see me at four."
SYSTEM = "You are a counsellor. Stay with what the client has said, and do not assume what they have not told you."


@pytest.mark.parametrize(
    ("text", "echo", "recital", "copied"),
    [
        (CLIENT_WORDS, 1.0, 0.0, 1.0),
        ("I LIE AWAKE, until four: every night! What would help?", 0.0, 0.0, 7 / 10),  # seven words are too few
        ("You lie awake until four every night, and your sister says it will pass. What then?", 1.0, 0.0, 11 / 16),
        ("At four nobody sees you. What goes through your mind then?", 0.0, 0.0, 0.0),
        ("Stay with what the client has said, and do not assume. What else?", 0.0, 1.0, 0.0),
    ],
)
def test_copied_words_by_hand(text: str, echo: float, recital: float, copied: float) -> None:
    found = health_of(text, CLIENT_WORDS, system_prompt=SYSTEM)
    assert (found["echo"], found["recital"]) == (echo, recital)
    assert found["copied"] == pytest.approx(copied)
    assert health_of(text, CLIENT_WORDS)["recital"] is None, "without a system prompt nobody recites it"


def test_signs_of_unhealthy_replies() -> None:
    assert unhealthy(health_of("", "Hm.")) == ["empty"]
    assert unhealthy(health_of(f"{CLIENT_WORDS} {CLIENT_WORDS}", CLIENT_WORDS, cut=True)) == ["cut", "loop", "echo"]
    assert unhealthy(health_of("What would help you tonight?", CLIENT_WORDS, cut=False)) == []
    assert unhealthy(health_of("I can't help.", CLIENT_WORDS, refused=True)) == []
