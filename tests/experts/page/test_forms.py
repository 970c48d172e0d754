"""Tests of forms: the server reads them up to a size limit and accepts only fields and values that the page offers."""

from urllib.parse import urlencode

import pytest

from psychocounsel.experts.items.pairs import PairKind
from psychocounsel.experts.page.forms import MOST_CHARACTERS, BadForm, read_form

answer_of = PairKind().answer_of


def sent(**fields: str) -> dict[str, str]:
    return read_form(urlencode(fields).encode())


def test_a_whole_answer() -> None:
    fields = {"choice": "harmful", "rating.left.empathy": "4", "rating.right.empathy": "", "safety.right.asks": "no"}
    found = answer_of(sent(**fields, comment=" Grüße\r\n<b> ", seconds="12.34"), 60)
    assert found == {
        "choice": "harmful",
        "ratings": {"left": {"empathy": 4}},
        "safety": {"right": {"asks": "no"}},
        "comment": "Grüße\n<b>",
        "seconds": 12.3,
    }


@pytest.mark.parametrize(
    ("seconds", "elapsed", "kept"),
    [
        ("900", 30.0, 31.0),
        ("", 30.0, 30.0),
        ("nan", 30.0, 30.0),
        ("-5", 30.0, 0.0),
        ("20", None, 20.0),
        ("", None, 0.0),
        ("1e9", None, 12 * 3600),
    ],
)
def test_seconds_are_taken_as_far_as_they_are_possible(seconds: str, elapsed: float | None, kept: float) -> None:
    assert answer_of(sent(choice="tie", seconds=seconds), elapsed)["seconds"] == kept


@pytest.mark.parametrize(
    "fields",
    [
        {"choice": "up"},
        {},
        {"choice": "left", "rating.left.empathy": "6"},
        {"choice": "left", "rating.left.warmth": "3"},
        {"choice": "left", "safety.left.asks": "perhaps"},
        {"choice": "left", "seconds": "soon"},
        {"choice": "left", "comment": "x" * (MOST_CHARACTERS + 1)},
        {"choice": "left", "rater": "e02"},
    ],
)
def test_what_the_page_does_not_offer_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(BadForm):
        answer_of(sent(**fields), 60)


@pytest.mark.parametrize(
    "body", [b"choice=left&choice=right", b"\xff=1", b"a=%ff", b"&".join([b"a%d=1" % n for n in range(200)])]
)
def test_what_is_no_form_is_refused(body: bytes) -> None:
    with pytest.raises(BadForm):
        read_form(body)


def test_control_characters_do_not_get_into_a_comment() -> None:
    assert answer_of(sent(choice="tie", comment="a\x00b\x1b[31mc\u202ed\te"), 1)["comment"] == "ab[31mcd\te"


def test_joiners_and_hard_spaces_of_a_comment_stay() -> None:
    """Persian, emoji and French need them, and Python calls none of them printable."""
    written = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \U0001f468\u200d\U0001f469 5\u00a0mg"
    assert answer_of(sent(choice="tie", comment=written), 1)["comment"] == written
