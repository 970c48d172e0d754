"""Measure time and memory of an audit of generated pairs without a reward model: `python -m benchmarks.audit_speed FOLDER`.

It also prints the time of scikit-learn's n-gram counters divided by the time of ours, on a part of the replies.
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from psychocounsel.api import compose
from psychocounsel.evaluation.audit.auditing import audit
from psychocounsel.evaluation.audit.topics import character_ngrams, word_ngrams

WORDS = 30_000  # size of the vocabulary
SPEECH, REPLY = 60, 150  # mean number of words of a text
PART = 1000  # number of replies for the comparison with scikit-learn
Row = dict[str, Any]


def make_rows(pairs: int, seed: int = 0) -> list[Row]:
    """Return `pairs` generated pairs. Words follow Zipf's law.

    Each prompt has four replies and 1.4 pairs on average. Half of the chosen replies end with a question mark.
    """
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(rng.choice(letters, rng.integers(2, 11))) for _ in range(WORDS)])
    chances = 1 / np.arange(1, WORDS + 1)
    chances /= chances.sum()

    def text(length: int) -> str:
        drawn = rng.choice(words, max(5, int(rng.normal(length, length / 4))), p=chances).tolist()
        sentences = [" ".join(drawn[start : start + 12]).capitalize() for start in range(0, len(drawn), 12)]
        return ". ".join(sentences)

    rows: list[Row] = []
    while len(rows) < pairs:
        prompt, replies = text(SPEECH), [text(REPLY) for _ in range(4)]
        for _ in range(1 + int(rng.random() < 0.4)):
            chosen, rejected = rng.choice(4, 2, replace=False)
            end = "?" if rng.random() < 0.5 else "."
            rows.append({"prompt": prompt, "chosen": replies[chosen] + end, "rejected": replies[rejected] + "."})
    return rows[:pairs]


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ratio(texts: Sequence[str]) -> float:
    """Return the seconds of scikit-learn's hashing vectorisers divided by ours, for words and characters together."""
    from sklearn.feature_extraction.text import HashingVectorizer

    same = {"n_features": 1 << 18, "alternate_sign": False, "norm": None, "dtype": np.float32}
    theirs = [
        HashingVectorizer(ngram_range=(1, 2), **same),
        HashingVectorizer(analyzer="char", ngram_range=(1, 3), **same),
    ]
    peer = timed(lambda: [each.transform(texts) for each in theirs])
    return peer / timed(lambda: [word_ngrams(texts), character_ngrams(texts)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=36_000)
    given = parser.parse_args()
    given.folder.mkdir(parents=True)
    rows = make_rows(given.pairs)
    data = given.folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = compose([f"data.path={data}"], name="audit")
    before = time.process_time()
    seconds = timed(lambda: audit(config, given.folder / "run", print, lambda names, _: names, None))
    busy, peak = time.process_time() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    replies = [row["chosen"] for row in rows[:PART]]
    letters = sum(map(len, replies)) / len(replies)
    print(
        f"{given.pairs} pairs, {letters:.0f} characters a reply, {len(os.sched_getaffinity(0))} cores: {seconds:.0f} s"
    )
    print(f"{busy:.0f} s of CPU time, {peak:.1f} GB peak memory")
    print(f"n-grams: scikit-learn takes {ratio(replies):.1f} times as long as we do")


if __name__ == "__main__":
    main()
