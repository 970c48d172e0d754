"""The words of a reply, what repeats among them, and how many differ."""

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from psychocounsel.data.selection.shingles import CJK
from psychocounsel.evaluation.health.thresholds import (
    LOOP_COPIES,
    LOOP_WORDS,
    MTLD_RATIO,
    MTLD_WORDS,
    TAIL_COPIES,
    TAIL_WORDS,
)

_WORD = re.compile(rf"[{CJK}]|(?:(?![{CJK}])\w)+(?:['\u2019](?:(?![{CJK}])\w)+)*")


def words_of(text: str) -> list[str]:
    """In small letters, without punctuation; each Chinese, Japanese or Korean character is a word."""
    return _WORD.findall(text.lower().replace("\u2019", "'"))


def numbered(words: Sequence[str]) -> np.ndarray:
    """A number for each word, the same for equal ones; int64[words]."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(word, len(numbers)) for word in words], np.int64)


def has_loop(words: np.ndarray) -> bool:
    """Whether a span of `words` (their numbers) stands there several times in a row.

    Three copies or more that have at least 12 words together, or at the end two copies or more that have at least 20. The last
    copy may be partial where whole ones suffice without it.
    """
    for period in range(1, len(words) // 2 + 1):
        differ = np.flatnonzero(words[period:] != words[:-period])
        edges = np.concatenate(([-1], differ, [len(words) - period]))
        runs = np.diff(edges) - 1 + period  # words of each stretch that repeats with this period
        if runs.max() >= max(LOOP_WORDS, LOOP_COPIES * period) or runs[-1] >= max(TAIL_WORDS, TAIL_COPIES * period):
            return True
    return False


def distinct_2(words: Sequence[str]) -> float | None:
    """Different pairs of neighbouring words, as a share of all such pairs (Li et al. 2016, distinct-2); None below two words."""
    pairs = list(pairwise(words))
    return len(set(pairs)) / len(pairs) if pairs else None


def mtld(words: Sequence[str]) -> float | None:
    """The measure of textual lexical diversity (McCarthy and Jarvis 2010): mean words in a stretch that keeps its variety.

    A factor is full where the ratio of different words to words falls to 0.72 or below; what is left over counts in part. Mean of
    reading forwards and backwards. None below 50 words, or if no word comes twice.
    """
    if len(words) < MTLD_WORDS:
        return None
    factors = [_factors(words), _factors(words[::-1])]
    return sum(len(words) / each for each in factors) / 2 if all(factors) else None


def _factors(words: Sequence[str]) -> float:
    full, seen, length = 0, set[str](), 0
    for word in words:
        seen.add(word)
        length += 1
        if len(seen) / length <= MTLD_RATIO:
            full, seen, length = full + 1, set(), 0
    return full + ((1 - len(seen) / length) / (1 - MTLD_RATIO) if length else 0.0)
