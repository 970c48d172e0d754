"""Hashed word 3-grams of texts, by which near duplicates are found."""

import re
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

Array = np.ndarray

TOKEN = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")
# Chinese, Japanese and Korean: each character counts as a word, because spaces separate no words (in Korean, few).
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0002fa1f"
_TOKEN_OR_CHARACTER = re.compile(rf"[{CJK}]|(?:(?![{CJK}])\w)+(?:['\u2019](?:(?![{CJK}])\w)+)*|[^\w\s]")
_ANY_CJK = re.compile(f"[{CJK}]")
_MIX, _SPREAD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)


def shingles(texts: Sequence[str], length: int = 3) -> Iterator[Array]:
    """Yield the set of hashed sequences of `length` words of each text, sorted uint64; a shorter text is one sequence."""
    for text in texts:
        token = _TOKEN_OR_CHARACTER if _ANY_CJK.search(text) else TOKEN
        codes = np.array([zlib.crc32(word.encode()) + 1 for word in token.findall(text.lower())], np.uint64)
        yield np.unique(rolled(codes, min(length, max(len(codes), 1))))


def rolled(codes: Array, length: int) -> Array:
    """Return a hash of each sequence of `length` codes, uint64; it also depends on the length."""
    count = max(len(codes) - length + 1, 0)
    mixed = np.full(count, length, np.uint64)
    for place in range(length):
        mixed = mixed * _MIX + codes[place : place + count]
    mixed ^= mixed >> np.uint64(29)
    return mixed * _SPREAD
