"""Fixed pseudo-random order of texts: it depends on the seed only, not on the machine or the order of rows."""

import hashlib


def rank(text: str, seed: int, purpose: str) -> str:
    """Return the sort key of `text`; each purpose has its own order."""
    return hashlib.sha256(f"{purpose}:{seed}:{text}".encode()).hexdigest()
