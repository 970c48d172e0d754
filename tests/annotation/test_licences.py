"""Tests which licences and terms conflict."""

import pytest

from psychocounsel.annotation.licences import conflicts, refuse_conflicts
from psychocounsel.errors import UserError


@pytest.mark.parametrize(
    ("licences", "terms", "own", "names"),
    [
        ({"a": "apache-2.0", "b": "CC0 1.0"}, {"w": "mit", "v": "own"}, "cc-by-4.0", []),
        ({"a": None}, {"w": None}, None, ["unknown-a", "unknown-w"]),
        ({"a": "cc-by-nc-4.0"}, {}, None, []),
        ({"a": "cc-by-nc-4.0"}, {}, "cc-by-4.0", ["non-commercial-a"]),
        ({"a": "cc-by-nc-4.0"}, {}, "cc-by-nc-4.0", []),
        ({"a": "cc-by-sa-4.0"}, {}, "cc-by-4.0", ["share-alike-a"]),
        ({"a": "cc-by-nc-sa-4.0"}, {}, "mit", ["non-commercial-a", "share-alike-a"]),
        ({"my forum": "cc-by-nd-4.0"}, {}, None, ["no-derivatives-my-forum"]),
        ({"a": "forum terms"}, {"w": "vendor terms"}, "mit", ["unlisted-a", "unlisted-w"]),
        ({}, {"w": "no-competing-models"}, "mit", ["training-w"]),
        ({}, {"w": "llama3"}, "mit", ["training-w"]),
        ({}, {"w": "llama3.1"}, "mit", ["named-w"]),
        ({}, {"w": "non-commercial"}, "mit", ["non-commercial-w"]),
    ],
)
def test_conflicts(licences: dict, terms: dict, own: str | None, names: list[str]) -> None:
    keyed = [{f"{name}.key": (name, text) for name, text in texts.items()} for texts in (licences, terms)]
    found = conflicts(*keyed, own)
    assert [each.name for each in found] == names
    assert all(each.sentence.partition(": ")[0] in keyed[0] | keyed[1] for each in found)


def test_conflicts_are_refused_until_they_are_accepted_by_name() -> None:
    found = conflicts({"speeches.license": ("forum", None)}, {"writers.terms": ("w", "no-competing-models")}, None)
    with pytest.raises(UserError, match=r"accept_terms=\[training-w,unknown-forum\].*not legal advice"):
        refuse_conflicts(found, [])
    with pytest.raises(UserError, match=r"\[training-w\] writers.terms: The terms of w"):
        refuse_conflicts(found, ["unknown-forum"])
    refuse_conflicts(found, ["unknown-forum", "training-w"])
    with pytest.raises(
        UserError, match="accept_terms: other is not a conflict of these sources and writers; conflicts: training-w"
    ):
        refuse_conflicts(found, ["other"])
