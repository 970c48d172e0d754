"""Topics of the clients' speeches for leave-one-topic-out folds, and the n-gram counts that models and clusters use."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from psychocounsel.data.near_duplicates import TOKEN, rolled
from psychocounsel.evaluation.audit.pairs import Pairs

# Sparse matrices of word and character n-gram counts. N-grams are hashed, so that no vocabulary is stored.

BITS = 18  # 2**18 columns
_TEXTS = 400  # at a time
_BREAK = np.uint64(0)  # between two texts
Array = np.ndarray


def word_ngrams(texts: Sequence[str], lengths: Sequence[int] = (1, 2)) -> Any:
    """Return the n-gram counts of lower-cased words and punctuation marks, csr float32[texts, 2**BITS]."""
    known: dict[str, int] = {}

    def codes(text: str) -> list[int]:
        words = TOKEN.findall(text.lower())
        return [
            known[word] if word in known else known.setdefault(word, zlib.crc32(word.encode()) + 1) for word in words
        ]

    return _counted(texts, lambda text: np.array(codes(text), np.uint64), lengths)


def character_ngrams(texts: Sequence[str]) -> Any:
    """Return the counts of runs of one to three lower-cased characters, csr float32[texts, 2**BITS].

    Any run of white space counts as one space.
    """

    def codes(text: str) -> Array:
        return np.frombuffer(" ".join(text.lower().split()).encode("utf-32-le"), np.uint32).astype(np.uint64)

    return _counted(texts, codes, (1, 2, 3))


def first_words(texts: Sequence[str]) -> Any:
    """Return indicators of each text's first word, first two and first three words, csr float32[texts, 2**BITS]."""
    from scipy.sparse import csr_array

    columns, starts = list[int](), [0]
    for text in texts:
        words = TOKEN.findall(text[:200].lower())[:3]
        columns += [zlib.crc32(" ".join(words[: count + 1]).encode()) % (1 << BITS) for count in range(len(words))]
        starts.append(len(columns))
    return small_indices(csr_array((np.ones(len(columns), np.float32), columns, starts), shape=(len(texts), 1 << BITS)))


def one_hot(chosen: Sequence[str], rejected: Sequence[str]) -> Any:
    """Return, for each pair, 1 in the chosen name's column and -1 in the rejected name's, csr float64[pairs, names]."""
    from scipy.sparse import csr_array

    numbers = {name: number for number, name in enumerate(sorted({*chosen, *rejected}))}
    pairs = np.arange(len(chosen))
    shape = (len(pairs), len(numbers))
    sides = [
        csr_array((np.ones(len(pairs)), (pairs, [numbers[name] for name in side])), shape)
        for side in (chosen, rejected)
    ]
    return small_indices((sides[0] - sides[1]).tocsr())


def difference(features: Any, chosen: Array, rejected: Array) -> Any:
    """Return the rows `chosen` of a sparse matrix less its rows `rejected`, csr."""
    return small_indices((features[chosen] - features[rejected]).tocsr())


def tf_idf(counts: Any) -> Any:
    """Replace counts by (1 + log count) x inverse document frequency, with rows of unit length (the formula of scikit-learn).

    The counts are changed in place. Document frequencies use no labels, so computing them over test rows leaks nothing.
    """
    from sklearn.feature_extraction.text import TfidfTransformer

    model = TfidfTransformer(sublinear_tf=True).fit(counts)
    return model.transform(counts, copy=False)


def _counted(texts: Sequence[str], codes: Any, lengths: Sequence[int]) -> Any:
    from scipy.sparse import coo_array, csr_array, vstack

    parts = [csr_array((0, 1 << BITS), dtype=np.float32)]
    for start in range(0, len(texts), _TEXTS):
        batch = [codes(text) for text in texts[start : start + _TEXTS]]
        whole = np.concatenate([piece for code in batch for piece in (code, [_BREAK])])
        row = np.repeat(np.arange(len(batch)), [len(code) + 1 for code in batch])
        columns, rows = [], []
        for length in lengths:
            hashed = rolled(whole, length) >> np.uint64(64 - BITS)
            last = len(whole) - length + 1
            inside = (row[:last] == row[length - 1 :]) & (whole[length - 1 :] != _BREAK)
            columns.append(hashed[inside].astype(np.int32))
            rows.append(row[:last][inside].astype(np.int32))
        place = np.concatenate(rows), np.concatenate(columns)
        ones = np.ones(len(place[0]), np.float32)
        parts.append(coo_array((ones, place), shape=(len(batch), 1 << BITS)).tocsr())
    return small_indices(vstack(parts, format="csr"))


def small_indices(matrix: Any) -> Any:
    """Convert the indices of a sparse matrix to 32 bits in place, because scikit-learn requires it; return the matrix."""
    matrix.indices, matrix.indptr = (
        indices.astype(np.int32, copy=False) for indices in (matrix.indices, matrix.indptr)
    )
    return matrix


# Topics for leave-one-topic-out folds: the data's own topics, otherwise clusters of the clients' speeches.

FROM_DATA, CLUSTERS, NONE = "data", "clusters", "none"
_CLUSTERS = 8
_PER_CLUSTER = 5  # least average number of prompts per cluster


@dataclass(frozen=True)
class Topics:
    """Topic of each pair.

    Attributes:
        of_pair: index into `names` for each pair, int64[n].
        names: names of the topics.
        source: "data", "clusters", or "none" if there are too few prompts, or too few different ones, for two clusters.
    """

    of_pair: np.ndarray
    names: list[str]
    source: str


def topics_of(pairs: Pairs, seed: int) -> Topics:
    """Return the data's topics if every pair has one and they differ; otherwise clusters of prompts, named by numbers."""
    if pairs.topics and len(set(pairs.topics)) > 1:
        names, of_pair = np.unique(pairs.topics, return_inverse=True)
        return Topics(of_pair.astype(np.int64), names.tolist(), FROM_DATA)
    count = min(_CLUSTERS, len(pairs.prompts) // _PER_CLUSTER)
    of_prompt = np.zeros(len(pairs.prompts), np.int64)
    if count >= 2:
        of_prompt = _clusters([pairs.speech(number) for number in range(len(pairs.prompts))], count, seed)
    clusters = int(of_prompt.max()) + 1
    if clusters < 2:
        return Topics(np.zeros(len(pairs), np.int64), ["1"], NONE)
    return Topics(of_prompt[pairs.prompt], [str(number + 1) for number in range(clusters)], CLUSTERS)


def _clusters(speeches: list[str], count: int, seed: int) -> np.ndarray:
    """Return the cluster of each speech, int64[speeches], by k-means on the latent semantic components of its words.

    Clusters are numbered from 0. There are at most `count` of them; speeches with the same words share one.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import TruncatedSVD

    weights = tf_idf(word_ngrams(speeches, (1,)))
    weights = weights[:, np.unique(weights.indices)]
    size = min(32, len(speeches) - 1, weights.shape[1] - 1)
    if size < 1:
        return np.zeros(len(speeches), np.int64)
    components = TruncatedSVD(size, random_state=seed).fit_transform(weights)
    lengths = np.linalg.norm(components, axis=1, keepdims=True)
    directions = components / np.where(lengths > 0, lengths, 1)
    count = min(count, len(np.unique(directions.round(6), axis=0)))
    labels = KMeans(count, n_init=3, random_state=seed).fit_predict(directions)
    return np.asarray(np.unique(labels, return_inverse=True)[1], np.int64)
