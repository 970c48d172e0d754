"""Loops, repetition and diversity of words equal brute force and figures computed by hand."""

import itertools

import numpy as np
import pytest

from psychocounsel.evaluation.health.words import distinct_2, has_loop, mtld, numbered, words_of

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
