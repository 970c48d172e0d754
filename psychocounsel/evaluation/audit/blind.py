"""Speech-blind baselines: models that predict the chosen reply without the client's speech, and their accuracy."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from psychocounsel.counsel.cues import CUES, cue_values
from psychocounsel.evaluation.audit.figures import Accuracy, BestCue, BlindFigures, CueAccuracy, JudgedAccuracy
from psychocounsel.evaluation.audit.pairs import Pairs
from psychocounsel.evaluation.audit.topics import (
    NONE,
    Topics,
    character_ngrams,
    difference,
    first_words,
    one_hot,
    tf_idf,
    word_ngrams,
)
from psychocounsel.metrics.intervals import mean_intervals
from psychocounsel.metrics.rewards import wins

# Linear models of feature differences without an intercept, so that swapping a pair's replies negates its margin.

Array = np.ndarray

MOST_FITTED = 12_000  # pairs


def fit_logistic(differences: Array, train: Array) -> Array:
    """Fit a logistic regression to the rows `train` and return the margins of all rows, float64[rows].

    Each feature is divided by its root mean square over `train`.
    """
    from sklearn.linear_model import LogisticRegression

    scale = np.sqrt((differences[train] ** 2).mean(0))
    scaled = differences / np.where(scale > 0, scale, 1.0)
    side = _sides(len(train))
    model = LogisticRegression(fit_intercept=False, max_iter=500)
    model.fit(scaled[train] * side[:, None], side)
    return scaled @ model.coef_[0]


def fit_sparse(differences: Any, train: Array) -> Array:
    """Fit a linear support vector machine (Fan et al. 2008) to sparse rows; return the margins of all rows, float64[rows].

    At most `MOST_FITTED` random rows of `train` are used, to limit memory and time.
    """
    from sklearn.svm import LinearSVC

    if len(train) > MOST_FITTED:
        train = np.sort(np.random.default_rng(0).choice(train, MOST_FITTED, replace=False))
    side = _sides(len(train))
    turned = differences[train]
    turned.data = turned.data * np.repeat(side, np.diff(turned.indptr))
    model = LinearSVC(C=0.1, fit_intercept=False, random_state=0, tol=1e-3)
    model.fit(turned, side)
    return np.asarray(differences @ model.coef_[0])


def fit_best_cue(signs: Array, train: Array) -> Array:
    """Pick the cue and direction that win most pairs of `train`; return its margins of all rows, float64[rows]."""
    won = signs[train].mean(0)
    best = int(np.abs(won).argmax())
    return signs[:, best] * (1.0 if won[best] >= 0 else -1.0)


def _sides(count: int) -> Array:
    """Return alternating 1 and -1, float64[count]: every second pair is presented as (rejected, chosen).

    The fits need two classes. Without an intercept, the order does not change the loss of a pair.
    """
    return np.where(np.arange(count) % 2, -1.0, 1.0)


# Folds for cross-fitting: the pairs that test a model share no text with the pairs that it was fitted to.

LEAST_FITTED = 10  # pairs
Fit = Callable[[Any, Array], Array]  # (differences of all pairs, training rows) -> margins of all pairs


@dataclass(frozen=True)
class Fold:
    """Indices (int64) of the pairs to fit to (`train`) and of the pairs to test on (`test`)."""

    train: Array
    test: Array


def by_component(component: Array, count: int, seed: int) -> list[Fold]:
    """Return at most `count` folds of whole components, with numbers of pairs as equal as the components allow."""
    part = _spread(component, count, seed)
    return [Fold(np.flatnonzero(part != number), np.flatnonzero(part == number)) for number in np.unique(part)]


def by_topic(topic: Array, component: Array, most: int, seed: int) -> list[Fold]:
    """Return one fold per topic; if there are more than `most` topics, `most` folds of several topics each.

    The training pairs of a fold exclude every component that has a pair in the fold's topics. A fold with fewer than
    `LEAST_FITTED` training pairs is dropped, so its pairs are never tested.
    """
    part, folds = _spread(topic, most, seed), []
    for number in np.unique(part):
        test = np.flatnonzero(part == number)
        folds.append(Fold(np.flatnonzero(~np.isin(component, component[test])), test))
    return [fold for fold in folds if len(fold.train) >= LEAST_FITTED]


def _spread(group: Array, count: int, seed: int) -> Array:
    """Return the fold of each row, int64[rows]. Each group, the largest first, goes to the fold with the fewest rows."""
    numbers, sizes = np.unique(group, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(numbers))
    order = order[np.argsort(-sizes[order], kind="stable")]
    rows, place = np.zeros(min(count, len(numbers)), np.int64), np.empty(len(numbers), np.int64)
    for index in order:
        place[index] = rows.argmin()
        rows[place[index]] += sizes[index]
    return place[np.searchsorted(numbers, group)]


def cross_fit(differences: Any, folds: Sequence[Fold], fit: Fit, workers: int) -> Array:
    """Return each pair's margin by a model that was not fitted to it, float64[pairs]; NaN for pairs in no test fold.

    A positive margin prefers the chosen reply. `differences`: features of the chosen minus the rejected reply.
    """
    margins = np.full(differences.shape[0], np.nan)
    with ThreadPoolExecutor(workers) as pool:
        for fold, fold_margins in zip(folds, pool.map(lambda fold: fit(differences, fold.train), folds), strict=True):
            margins[fold.test] = fold_margins[fold.test]
    return margins


# Permutation test of the best single cue: the distribution of the best cue's accuracy under random labels.


def best_cue(
    signs: np.ndarray, names: Sequence[str], component: np.ndarray, samples: int = 2000, seed: int = 0
) -> BestCue:
    """Return the best cue, and the best accuracy's distribution if labels of whole components are flipped at random.

    `signs`: float[pairs, cues], 1 if the chosen reply has the larger value, -1 if the rejected one has, 0 for a tie. A
    cue's accuracy is the share of pairs that it wins in its better direction; ties count half. Each draw takes the maximum
    over all cues, which corrects for having chosen the cue and its direction (Westfall and Young 1993). The observed labels
    count as one draw (Phipson and Smyth 2010).
    """
    _, rows = np.unique(component, return_inverse=True)
    count = int(rows.max()) + 1
    sums = np.stack([np.bincount(rows, column, count) for column in signs.T], axis=1)
    observed = np.abs(sums.sum(0)) / len(signs)
    rng, drawn = np.random.default_rng(seed), []
    for start in range(0, samples, 100):  # 100 draws at a time, to limit memory with many components
        flips = 1.0 - 2.0 * rng.integers(0, 2, (min(100, samples - start), count))
        drawn.append(np.abs(flips @ sums).max(1) / len(signs))
    chance = np.concatenate(drawn)
    best = int(observed.argmax())
    p = (1 + (chance >= observed[best] - 1e-12).sum()) / (1 + samples)
    low, high = 0.5 + 0.5 * np.quantile(chance, [0.025, 0.975])
    accuracy = float(0.5 + 0.5 * observed[best])
    return {
        "column": best,
        "accuracy": accuracy,
        "low": float(low),
        "high": float(high),
        "p": float(p),
        "cue": names[best],
    }


# The baselines and their accuracy.

Step = Callable[[Iterable[str]], Iterable[str]]

MOST_TOPIC_FOLDS = 10
# Factor of the variance of a cross-fitted accuracy over that of independent tests. Each component tests a model, and helps to
# fit those that test the others. Under random labels, every two components of different folds therefore agree or disagree
# twice, once in each role, so the variance doubles (Bates et al. 2024, JASA 119:1434, on such intervals). A shortcut that is
# learned well leaves less to the choice of training pairs: the interval is then up to 1.4 times as wide as needed.
CROSS_FITTED = 2.0
TITLES = {
    "best_cue": "best single cue",
    "surface": "surface features",
    "first_words": "first words",
    "words": "word 1-2-grams",
    "characters": "character 1-3-grams",
    "writer": "writer of the reply",
    "position": "position in its row",
}


def blind_baselines(
    pairs: Pairs,
    topics: Topics,
    folds: int,
    permutations: int,
    seed: int,
    steps: Step = iter,
) -> BlindFigures:
    """Return the cross-fitted accuracy of every baseline whose columns the data have, and the accuracy of single cues.

    `steps` wraps the loop over the names of the baselines, for a progress bar.
    """
    values = cue_values(pairs.replies)
    signs, names = cue_signs(pairs, values)
    schemes = {"by_prompt": by_component(pairs.component, folds, seed)}
    if topics.source != NONE:
        schemes["by_topic"] = by_topic(topics.of_pair, pairs.component, MOST_TOPIC_FOLDS, seed)
    schemes = {scheme: scheme_folds for scheme, scheme_folds in schemes.items() if scheme_folds}
    margins: dict[str, dict[str, Array]] = {scheme: {} for scheme in schemes}
    workers = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    for name in steps([name for name in TITLES if _is_there(name, pairs)]):
        differences, fit = _prepared(name, pairs, values, signs)
        for scheme, scheme_folds in schemes.items():
            margins[scheme][name] = cross_fit(differences, scheme_folds, fit, workers)
    decides = (signs != 0).sum(0).tolist()
    cues: dict[str, CueAccuracy] = {
        name: {**figures, "decides": count}
        for name, figures, count in zip(names, accuracies(signs, pairs.component), decides, strict=True)
    }
    maximum = best_cue(signs, names, pairs.component, permutations, seed)
    baselines = _baselines(margins, pairs.component)
    return {"baselines": baselines, "cues": cues, "maximum": maximum, "best": maximum["cue"]}


def _baselines(margins: dict[str, dict[str, Array]], component: Array) -> dict[str, dict[str, JudgedAccuracy]]:
    """Return the figures of each baseline by scheme, over the pairs that the scheme's folds tested (`judged` of them)."""
    baselines: dict[str, dict[str, JudgedAccuracy]] = {name: {} for name in margins["by_prompt"]}
    for scheme, by_baseline in margins.items():
        columns = np.column_stack(list(by_baseline.values()))
        judged = ~np.isnan(columns).any(1)
        accurate = accuracies(columns[judged], component[judged], CROSS_FITTED)
        for name, figures in zip(by_baseline, accurate, strict=True):
            baselines[name][scheme] = {**figures, "judged": int(judged.sum())}
    return baselines


def accuracies(margins: Array, component: Array, inflation: float = 1.0) -> list[Accuracy]:
    """Return `accuracy` of each column of `margins`, float[pairs, columns], with its 95 % interval by components.

    `inflation`: factor of the variance.
    """
    won = wins(margins)
    intervals = mean_intervals(won, component, True, inflation).tolist()
    return [
        {"accuracy": mean, "low": low, "high": high}
        for mean, (low, high) in zip(won.mean(0).tolist(), intervals, strict=True)
    ]


def cue_signs(pairs: Pairs, values: Array) -> tuple[Array, list[str]]:
    """Return the sign of each cue's difference, chosen less rejected (float64[pairs, cues]), and the names of the cues.

    `values`: float[replies, cues], in the order of `CUES`. If replies were rated together, `position` is a further cue:
    1 if the chosen reply comes later in its row than the rejected one, otherwise -1.
    """
    names = list(CUES)
    signs = np.sign(values[pairs.chosen] - values[pairs.rejected])
    if pairs.order is not None:
        signs, names = np.column_stack([signs, np.sign(pairs.order[:, 0] - pairs.order[:, 1])]), [*names, "position"]
    return signs, names


def _is_there(name: str, pairs: Pairs) -> bool:
    return {"writer": pairs.writers, "position": pairs.order}.get(name, ()) is not None


def _prepared(name: str, pairs: Pairs, values: Array, signs: Array) -> tuple[Any, Fit]:
    """Return the feature differences of a baseline, chosen less rejected, and the function that fits it."""
    if name == "best_cue":
        return signs, fit_best_cue
    if name == "position":
        return signs[:, -1:], fit_best_cue
    if name == "surface":
        return values[pairs.chosen] - values[pairs.rejected], fit_logistic
    if name == "writer":
        assert pairs.writers is not None
        return one_hot([writers[0] for writers in pairs.writers], [writers[1] for writers in pairs.writers]), fit_sparse
    if name == "first_words":
        return difference(first_words(pairs.replies), pairs.chosen, pairs.rejected), fit_sparse
    counts = (word_ngrams if name == "words" else character_ngrams)(pairs.replies)
    return difference(tf_idf(counts), pairs.chosen, pairs.rejected), fit_sparse
