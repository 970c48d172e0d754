"""Topics for leave-one-topic-out folds: the data's own topics, otherwise clusters of the clients' speeches."""

from dataclasses import dataclass

import numpy as np

from psychocounsel.evaluation.audit.audited_pairs import Pairs
from psychocounsel.evaluation.audit.ngrams import tf_idf, word_ngrams

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
    found = KMeans(count, n_init=3, random_state=seed).fit_predict(directions)
    return np.asarray(np.unique(found, return_inverse=True)[1], np.int64)
