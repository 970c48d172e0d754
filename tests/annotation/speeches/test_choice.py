"""Duplicates and the split compared with brute force."""

import itertools

import numpy as np
import pytest

from psychocounsel.annotation.speeches.choice import KEPT, LIMIT, NEAR, SAME, ChoiceRules, choose, connected
from psychocounsel.annotation.speeches.cleaning import speech_id
from psychocounsel.data.near_duplicates import overlap, sketches
from tests.support.preferences import text


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Groups of texts that differ in up to 8 of 40 words, and exact duplicates."""
    rng = np.random.default_rng(0)
    found: list[str] = []
    for _ in range(30):
        original = text(rng, 40).split()
        for changes in (0, *rng.integers(0, 9, 3)):
            changed = list(original)
            for place in rng.choice(40, changes, replace=False):
                changed[place] = f"else{rng.integers(100)}"
            found.append(" ".join(changed))
    return [found[place] for place in rng.permutation(len(found))]


def ids_of(texts: list[str]) -> np.ndarray:
    return np.array([int(speech_id(each), 16) for each in texts], np.uint64)


def families(texts: list[str], threshold: float) -> list[int]:
    """Return the first index of each text's group, from comparing every pair of texts."""
    found = sketches(texts)
    first = list(range(len(texts)))
    for one, other in itertools.combinations(range(len(texts)), 2):
        if overlap(found.set_of(one), found.set_of(other)) >= threshold:
            low, high = sorted((first[one], first[other]))
            first = [low if each == high else each for each in first]
    return first


def test_the_first_of_each_family_stays(texts: list[str]) -> None:
    choice = choose(ids_of(texts), sketches(texts), ChoiceRules(0.8, 0.6, None, 0.2, 0))
    expected = families(texts, 0.8)
    assert choice.first.tolist() == expected
    assert (choice.decision == KEPT).tolist() == [number == first for number, first in enumerate(expected)]
    for number, decision in enumerate(choice.decision.tolist()):
        same = speech_id(texts[number]) in map(speech_id, texts[:number])
        assert (decision == SAME) == same
    assert (choice.decision == NEAR).any() and (choice.decision == SAME).any()


def test_no_two_speeches_of_a_family_are_parted_by_the_split(texts: list[str]) -> None:
    rules = ChoiceRules(0.8, 0.6, None, 0.3, 1)
    choice = choose(ids_of(texts), sketches(texts), rules)
    stays = choice.decision == KEPT
    sides: dict[int, set[bool]] = {}
    for number, family in enumerate(families(texts, 0.65)):  # almost no pair above this overlap is missed
        if stays[number]:
            sides.setdefault(family, set()).add(bool(choice.is_test[number]))
    assert all(len(each) == 1 for each in sides.values()) and any(len(each) == 1 for each in sides.values())
    assert 0 < choice.is_test.sum() < stays.sum() and not choice.is_test[~stays].any()


def test_the_split_is_seeded_and_more_speeches_leave_it_as_it_was() -> None:
    rng = np.random.default_rng(3)
    unlike = [text(rng, 40) for _ in range(200)]
    whole = choose(ids_of(unlike), sketches(unlike), ChoiceRules(0.8, 0.6, None, 0.2, 0)).is_test
    part = choose(ids_of(unlike[:100]), sketches(unlike[:100]), ChoiceRules(0.8, 0.6, None, 0.2, 0)).is_test
    assert whole[:100].tolist() == part.tolist() and 0.1 < whole.mean() < 0.3
    other = choose(ids_of(unlike), sketches(unlike), ChoiceRules(0.8, 0.6, None, 0.2, 1)).is_test
    assert other.tolist() != whole.tolist()


def test_few_speeches_have_a_test_one_and_no_fraction_none() -> None:
    few = ["one two three four", "five six seven eight"]
    assert choose(ids_of(few), sketches(few), ChoiceRules(0.8, 0.6, None, 0.001, 0)).is_test.sum() == 1
    assert choose(ids_of(few), sketches(few), ChoiceRules(0.8, 0.6, None, 0.0, 0)).is_test.sum() == 0


def test_a_limit_takes_the_lowest_ids(texts: list[str]) -> None:
    ids = ids_of(texts)
    choice = choose(ids, sketches(texts), ChoiceRules(0.8, 0.6, 5, 0.2, 0))
    without = choose(ids, sketches(texts), ChoiceRules(0.8, 0.6, None, 0.2, 0)).decision == KEPT
    assert set(ids[choice.decision == KEPT]) == set(sorted(ids[without])[:5])
    assert (choice.decision == LIMIT).sum() == without.sum() - 5


def test_components_are_named_by_their_lowest_member() -> None:
    assert connected(6, np.array([[4, 1], [5, 4], [3, 2]])).tolist() == [0, 1, 2, 2, 1, 1]
