"""Hashes, ids and random numbers computed from texts by SHA-256. Lone surrogates, which JSON allows, are hashed, too."""

import hashlib
from collections.abc import Iterable


def text_hash(text: str) -> str:
    """Return the hash of a text [64 hexadecimal digits]."""
    return _hash([text]).hex()


def text_id(*parts: str) -> str:
    """Return the id of one text, or of several: a hash [16 hexadecimal digits]."""
    return _hash(parts).hex()[:16]


def seed_of(*parts: object) -> int:
    """Return a seed from 0 to 2**32 - 1 that depends on all parts, and is the same on every machine."""
    return int.from_bytes(_hash(map(str, parts))[:4])


def number_of(*parts: object) -> int:
    """Return a 64-bit number computed from all parts; it is the same on every machine."""
    return int.from_bytes(_hash(map(str, parts))[:8])


def _hash(parts: Iterable[str]) -> bytes:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()
