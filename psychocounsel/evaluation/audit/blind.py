"""Speech-blind baselines: models that predict the chosen reply without the client's speech, and their accuracy."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from psychocounsel.counsel.cues import CUES, cue_values
from psychocounsel.evaluation.audit.audited_pairs import Pairs
from psychocounsel.evaluation.audit.fits import fit_best_cue, fit_logistic, fit_sparse
from psychocounsel.evaluation.audit.folds import Fit, by_component, by_topic, cross_fit
from psychocounsel.evaluation.audit.ngrams import (
    character_ngrams,
    difference,
    first_words,
    one_hot,
    tf_idf,
    word_ngrams,
)
from psychocounsel.evaluation.audit.permutation import Maximum, best_cue
from psychocounsel.evaluation.audit.topics import NONE, Topics
from psychocounsel.metrics.stats import mean_intervals

Array = np.ndarray
Figures = dict[str, Any]
Step = Callable[[Iterable[str]], Iterable[str]]

MOST_TOPIC_FOLDS = 10
TITLES = {
    "best_cue": "best single cue",
    "surface": "surface features",
    "first_words": "first words",
    "words": "word 1-2-grams",
    "characters": "character 1-3-grams",
    "writer": "writer of the reply",
    "position": "position in its row",
}


@dataclass(frozen=True)
class Blind:
    """Accuracy of all speech-blind baselines.

    Attributes:
        baselines: figures of each baseline, by scheme of folds: `by_prompt` and, where topics are known, `by_topic`.
        cues: figures of each single cue over all pairs, without cross-fitting.
        maximum: the best single cue against random labels.
        best: the name of that cue.
    """

    baselines: dict[str, Figures]
    cues: dict[str, Figures]
    maximum: Maximum
    best: str


def wins(margins: Array) -> Array:
    """Return 1 for each positive margin, 0 for a negative one, 0.5 for zero and NaN for NaN."""
    return np.where(np.isnan(margins), np.nan, np.where(margins > 0, 1.0, np.where(margins < 0, 0.0, 0.5)))


def blind_baselines(
    pairs: Pairs,
    topics: Topics,
    folds: int,
    permutations: int,
    seed: int,
    workers: int,
    steps: Step = iter,
) -> Blind:
    """Return the cross-fitted accuracy of every baseline whose columns the data have.

    `steps` wraps the loop over the names of the baselines, for a progress bar.
    """
    values = cue_values(pairs.replies)
    signs, names = cue_signs(pairs, values)
    schemes = {"by_prompt": by_component(pairs.component, folds, seed)}
    if topics.source != NONE:
        schemes["by_topic"] = by_topic(topics.of_pair, pairs.component, MOST_TOPIC_FOLDS, seed)
    schemes = {scheme: each for scheme, each in schemes.items() if each}
    margins: dict[str, dict[str, Array]] = {scheme: {} for scheme in schemes}
    for name in steps([name for name in TITLES if _is_there(name, pairs)]):
        differences, fit = _prepared(name, pairs, values, signs)
        for scheme, each in schemes.items():
            margins[scheme][name] = cross_fit(differences, each, fit, workers)
    decides = (signs != 0).sum(0).tolist()
    cues = {
        name: {**figures, "decides": count}
        for name, figures, count in zip(names, accuracies(signs, pairs.component), decides, strict=True)
    }
    maximum = best_cue(signs, pairs.component, permutations, seed)
    return Blind(_baselines(margins, pairs.component), cues, maximum, names[maximum.column])


def _baselines(margins: dict[str, dict[str, Array]], component: Array) -> dict[str, Figures]:
    """Return the figures of each baseline by scheme, over the pairs that the scheme's folds tested (`judged` of them)."""
    found: dict[str, Figures] = {name: {} for name in margins["by_prompt"]}
    for scheme, each in margins.items():
        columns = np.column_stack(list(each.values()))
        judged = ~np.isnan(columns).any(1)
        for name, figures in zip(each, accuracies(columns[judged], component[judged]), strict=True):
            found[name][scheme] = {**figures, "judged": int(judged.sum())}
    return found


def accuracies(margins: Array, component: Array) -> list[Figures]:
    """Return `accuracy` of each column of `margins`, float[pairs, columns], with its 95 % interval by components."""
    won = wins(margins)
    intervals = mean_intervals(won, component, shares=True).tolist()
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
