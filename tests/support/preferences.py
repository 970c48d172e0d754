"""Invented preference data with known properties, and the first version of the shipped sample."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from psychocounsel.data.rows import Example

FIRST_SAMPLE = Path(__file__).parent.parent / "fixtures" / "first_sample.jsonl.gz"
WORDS = [
    f"{first}{second}{third}" for first in "bdfgklmnprstv" for second in "aeiou" for third in ("", "n", "rt", "lo")
]


def first_sample(every: int = 1) -> list[dict[str, Any]]:
    """Return every `every`-th rated row of the first sample (216 rows)."""
    with gzip.open(FIRST_SAMPLE, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines][::every]


def text(rng: np.random.Generator, words: int = 12) -> str:
    return " ".join(rng.choice(WORDS, words))


def example(number: int, prompt: str, chosen: str, rejected: str, **more: Any) -> Example:
    return Example(f"r{number}", f"row {number}", [{"role": "user", "content": prompt}], [chosen, rejected], **more)


def random_pairs(count: int, seed: int = 0, end: str = ".", **more: Any) -> list[Example]:
    """Return pairs with random texts. Each chosen reply ends with `end`, each rejected reply with a full stop."""
    rng = np.random.default_rng(seed)
    return [
        example(number, f"{number} {text(rng)}", text(rng) + end, text(rng) + ".", **more) for number in range(count)
    ]
