"""Placeholders: what the rules find, what they leave, and the printed recall."""

import re
from itertools import pairwise

import pytest

from psychocounsel.annotation.speeches.identifiers import (
    identifiers_in,
    measured_recall,
    planted_speeches,
    replace_identifiers,
)
from psychocounsel.annotation.speeches.presidio import is_installed, presidio_finder
from psychocounsel.data.shipped_rows import sample_rows
from psychocounsel.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to a.b+c@example.co.uk, please.", "Write to [EMAIL_1], please."),
        ("Call (212) 555-0147 or +44 20 7946 0123.", "Call [PHONE_1] or [PHONE_2]."),
        ("My husband Torvald left; Torvald's mother knows.", "My husband [NAME_1] left; [NAME_1]'s mother knows."),
        ("I am with Dr. Okonkwo-Bell now.", "I am with Dr. [NAME_1] now."),
        ("My name is Ada Krumm. Krumm is my father's name.", "My name is [NAME_1]. [NAME_1] is my father's name."),
        ("We live at 12 Old Mill Lane, Flat 3.", "We live at [ADDRESS_1]."),
        ("Born on 3 May 1990, I feel old.", "Born on [DATE_OF_BIRTH_1], I feel old."),
        ("It is all on https://x.example.org/a?b=1.", "It is all on [URL_1]."),
        ("They call @night_owl a liar; @night_owl!", "They call [HANDLE_1] a liar; [HANDLE_1]!"),
        ("Policy number KX-550123 has lapsed.", "Policy number [NUMBER_1] has lapsed."),
        ("My sons Per and Olav fight.", "My sons [NAME_1] and [NAME_2] fight."),
        ("[NAME_1] said so, my wife Solveig too.", "[NAME_1] said so, my wife [NAME_2] too."),
    ],
)
def test_what_is_replaced(text: str, expected: str) -> None:
    assert replace_identifiers(text).text == expected


@pytest.mark.parametrize(
    "text",
    [
        "I am Catholic and my mother is Polish. On Monday I was with my GP.",
        "Between 2019-2020 I lost 12 kilos, 3 jobs and $250000.",
        "My Mum I can't tell. My wife, The Rock of us all? It's Christmas.",
        "In May, 17 people came. At 10.30 I was gone; it was 40 degrees.",
        "Call me crazy, but I sleep 4 hours.",
    ],
)
def test_what_is_left_alone(text: str) -> None:
    found = [text[span.start : span.end] for span in identifiers_in(text)]
    assert found in ([], ["Rock"])


def test_spans_lie_in_order_and_apart() -> None:
    for planted in planted_speeches():
        spans = identifiers_in(planted.text)
        assert all(one.end <= other.start for one, other in pairwise(spans))


def test_recall_counts_what_is_gone() -> None:
    nothing, everything = measured_recall(lambda text: text), measured_recall(lambda text: "")
    assert nothing["all"]["found"] == 0 and everything["all"]["recall"] == 1
    only = measured_recall(lambda text: re.sub(r"\S+@\S+\w", "[EMAIL]", text))
    assert 0.5 < only["email"]["recall"] < 1 and only["phone"]["recall"] == 0


def test_recall_on_planted_identifiers() -> None:
    found = measured_recall(lambda text: replace_identifiers(text).text)
    low = {kind for kind, each in found.items() if each["recall"] < 0.95}
    assert low <= {"name", "all"} and found["name"]["recall"] > 0.85


def test_few_words_of_the_sample_that_are_no_names_are_taken_for_names() -> None:
    """The spans were checked by eye: these are not names of people (places, a dog, nouns)."""
    texts = [row["prompt"] for _, row in sample_rows()]
    found = [text[span.start : span.end] for text in texts for span in identifiers_in(text)]
    wrong = [
        name for name in found if name in ("Alignment", "Benefits", "Biscuit", "Rotterdam", "Tadley", "Toronto", "Baba")
    ]
    assert len(found) > 200 and len(wrong) / len(found) < 0.05


@pytest.mark.extras
@pytest.mark.skipif(not is_installed(), reason="an extra of 210 MB, with spaCy: pip install 'psychocounsel[presidio]'")
def test_presidio_finds_patterns_with_a_blank_pipeline() -> None:
    finder = presidio_finder("always", None)
    assert finder is not None
    text = "My SSN is 536-90-4399, the card 4111 1111 1111 1111, the machine 192.168.3.4; mail tom@example.org."
    replaced = replace_identifiers(text, (finder,))
    assert replaced.text == "My SSN is [NUMBER_1], the card [NUMBER_2], the machine [NUMBER_3]; mail [EMAIL_1]."
    assert presidio_finder("never", None) is None


@pytest.mark.skipif(is_installed(), reason="Presidio is installed")
def test_presidio_is_asked_for_where_it_is_not_installed() -> None:
    assert presidio_finder("installed", None) is None
    with pytest.raises(
        UserError, match=r"speeches.presidio=always needs Presidio: pip install 'psychocounsel\[presidio\]'"
    ):
        presidio_finder("always", None)
    with pytest.raises(UserError, match=r"speeches.presidio_model=en_core_web_lg needs Presidio: pip install"):
        presidio_finder("installed", "en_core_web_lg")
