"""Unfinished ends, invented turns, leaked tokens and junk in hand-made texts: true cases and look-alikes."""

import pytest

from psychocounsel.evaluation.health.marks import ends_unfinished, has_junk, invents_turns, leaks_tokens

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
