"""Numbers with their nouns, as lines for users write them."""

from psychocounsel.storage.files import with_noun


def test_a_number_has_the_form_of_its_noun() -> None:
    assert [with_noun(number, "process") for number in (0, 1, 2)] == ["0 processes", "1 process", "2 processes"]
    assert with_noun(1200, "reply", "replies") == "1,200 replies"
    assert with_noun(1, "item needs", "items need") == "1 item needs"
