"""Near duplicates against a comparison of every text with every other."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from psychocounsel.data.near_duplicates import SketchFolder, near_matches, near_pairs, overlap, sketches
from tests.support.preferences import text


def words_of(some: str) -> set[tuple[str, ...]]:
    words = some.split()
    return {tuple(words[start : start + 3]) for start in range(len(words) - 2)} or {tuple(words)}


def jaccard(first: str, second: str) -> float:
    one, other = words_of(first), words_of(second)
    return len(one & other) / len(one | other)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Return 60 texts, some with a few words changed, most of them near the threshold."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        original = text(rng, 40).split()
        found.append(" ".join(original))
        for changes in rng.integers(0, 6, 2):
            changed = list(original)
            for place in rng.choice(40, changes, replace=False):
                changed[place] = "else"
            found.append(" ".join(changed))
    return [*dict.fromkeys(found), "Short one", "short"]


def test_every_pair_above_the_threshold_is_found_and_no_other(texts: list[str]) -> None:
    near = {
        pair for pair in itertools.combinations(range(len(texts)), 2) if jaccard(texts[pair[0]], texts[pair[1]]) >= 0.7
    }
    assert len(near) > 20
    assert {(first, second) for first, second, _ in near_pairs(sketches(texts), 0.7)} == near


def test_the_overlap_is_the_jaccard_index_of_word_sequences(texts: list[str]) -> None:
    found = sketches(texts)
    for first, second in ((0, 1), (0, 5), (3, 3), (len(texts) - 1, 0)):
        assert overlap(found.set_of(first), found.set_of(second)) == pytest.approx(jaccard(texts[first], texts[second]))


def test_matches_in_another_set(texts: list[str]) -> None:
    ours, theirs = texts[::2], texts[1::2]
    expected = {number for number, one in enumerate(ours) if any(jaccard(one, other) >= 0.7 for other in theirs)}
    assert expected and near_matches(sketches(ours), sketches(theirs), 0.7) == expected


def test_a_crowd_of_one_text_is_no_square_of_comparisons() -> None:
    crowd = sketches(["the very same words over again"] * 3000)
    found = list(near_pairs(crowd, 0.8))
    assert len({number for *pair, _ in found for number in pair}) == 3000 and len(found) < 8 * 3000


def test_sketches_on_disk_are_those_in_memory(texts: list[str], tmp_path: Path) -> None:
    folder = SketchFolder(tmp_path)
    for start in range(0, len(texts), 7):
        folder.add(texts[start : start + 7])
    on_disk, in_memory = folder.close(), sketches(texts)
    assert isinstance(on_disk.hashes, np.memmap) and len(on_disk) == len(texts)
    assert list(near_pairs(on_disk, 0.6)) == list(near_pairs(in_memory, 0.6))
    assert near_matches(on_disk, sketches(texts[:9]), 0.7) == near_matches(in_memory, sketches(texts[:9]), 0.7)


def test_nothing_is_near_nothing(tmp_path: Path) -> None:
    assert list(near_pairs(sketches([]), 0.7)) == list(near_pairs(SketchFolder(tmp_path).close(), 0.7)) == []
    assert near_matches(sketches(["a"]), sketches([]), 0.7) == set()


def test_chinese_is_compared_by_its_characters() -> None:
    one, other = "我最近总是睡不着,觉得自己没有用", "我最近总是睡不着,觉得自己没有力气"
    (found,) = near_pairs(sketches([one, other]), 0.5)
    assert 0.5 < found[2] < 1
