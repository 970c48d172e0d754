"""Words of a reply: loops among them, and their diversity."""

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
    """Return the lower-cased words without punctuation; each Chinese, Japanese or Korean character is a word."""
    return _WORD.findall(text.lower().replace("\u2019", "'"))


def numbered(words: Sequence[str]) -> np.ndarray:
    """Return a number for each word, int64[words]; equal words have equal numbers."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(word, len(numbers)) for word in words], np.int64)


def has_loop(words: np.ndarray) -> bool:
    """Return True if a span of `words` (their numbers) is repeated several times in a row.

    A loop has at least three copies with 12 words or more together; at the end of the reply, two copies with 20 words or
    more suffice. A further partial copy at the end counts towards the words, but not as a copy.
    """
    for period in range(1, len(words) // 2 + 1):
        differ = np.flatnonzero(words[period:] != words[:-period])
        edges = np.concatenate(([-1], differ, [len(words) - period]))
        runs = np.diff(edges) - 1 + period  # length of each stretch that repeats with this period [words]
        if runs.max() >= max(LOOP_WORDS, LOOP_COPIES * period) or runs[-1] >= max(TAIL_WORDS, TAIL_COPIES * period):
            return True
    return False


def distinct_2(words: Sequence[str]) -> float | None:
    """Return the share of distinct pairs among all pairs of neighbouring words (distinct-2, Li et al. 2016).

    The result is None for fewer than two words.
    """
    pairs = list(pairwise(words))
    return len(set(pairs)) / len(pairs) if pairs else None


def mtld(words: Sequence[str]) -> float | None:
    """Return the measure of textual lexical diversity: words per factor (MTLD, McCarthy and Jarvis 2010).

    A factor is a stretch of words whose type-token ratio has fallen to 0.72 or below; the remaining words count as a
    fraction of a factor. The result is the mean of reading forwards and backwards. It is None for fewer than 50 words, or
    if no word is repeated.
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
