"""Coverage of the 95 % intervals that commands print, by simulation: `python -m benchmarks.coverage` prints a Markdown table.

Each figure is computed on many small data sets that are drawn from one distribution. The coverage is the share of its
intervals that contain the figure of that distribution. The distributions have effects of clusters (prompts, clients).
"""

import argparse
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from psychocounsel.api import compose
from psychocounsel.counsel.cues import cue_values
from psychocounsel.data.selection import load_split
from psychocounsel.evaluation.audit.blind import (
    CROSS_FITTED,
    accuracies,
    by_component,
    cross_fit,
    cue_signs,
    fit_best_cue,
    fit_logistic,
    fit_sparse,
)
from psychocounsel.evaluation.audit.pairs import pairs_from
from psychocounsel.evaluation.audit.topics import difference, tf_idf, word_ngrams
from psychocounsel.evaluation.reward.figures import reward_figures
from psychocounsel.experts.agreement.coding import NOMINAL, Codes
from psychocounsel.experts.agreement.coefficients import with_intervals
from psychocounsel.metrics.agreement import agreement, position_bias
from psychocounsel.metrics.intervals import Measure, bootstrap, mean_intervals, ratio_intervals
from psychocounsel.metrics.regressions import bradley_terry, length_controlled
from psychocounsel.metrics.win_rates import Verdicts, pair_figures, seed_figures

Array = np.ndarray
Random = np.random.Generator
Triple = tuple[float, float, float]  # figure, and both ends of its interval
Measured = Mapping[str, Triple]
# Draws a data set with the given clusters, int[rows], and returns its figures, whose intervals take `samples` resamples.
Simulation = Callable[[Random, Array, int], Measured]

LAYOUTS: dict[str, tuple[int, bool]] = {  # number of clusters; True if each has 5 to 20 rows instead of one
    "n = 10": (10, False),
    "n = 30": (30, False),
    "n = 100": (100, False),
    "5 clusters": (5, True),
    "10 clusters": (10, True),
    "20 clusters": (20, True),
}
LARGE = 100_000  # rows from which the true figure is computed
SAMPLES = 300  # resamples of an interval


@dataclass(frozen=True)
class Family:
    """Figures that one simulation measures: the number of data sets per layout, and the true figures.

    Without `truths`, those of one large data set are taken for true.
    """

    simulate: Simulation
    times: int = 150
    truths: Mapping[str, float] | None = None


def effects(rng: Random, clusters: Array) -> Array:
    """Return a standard normal effect of each row's cluster, float64[rows]."""
    return rng.normal(size=int(clusters.max()) + 1)[clusters]


def latent(rng: Random, clusters: Array) -> Array:
    """Return standard normal values, float64[rows]; two rows of a cluster have the correlation 0.36."""
    return 0.6 * effects(rng, clusters) + 0.8 * rng.normal(size=len(clusters))


def mean(values: Array, clusters: Array, share: bool = False) -> Triple:
    low, high = mean_intervals(values[:, None], clusters, shares=share)[0].tolist()
    return float(values.mean()), low, high


def triple(measure: Measure) -> Triple:
    return measure.value, measure.low, measure.high


def means(rng: Random, clusters: Array, samples: int) -> Measured:
    """Shares (accuracy, health, controls, rubrics), means (rewards, lengths), and paired differences of equal models."""
    value = latent(rng, clusters)
    common = effects(rng, clusters)
    mine, theirs = (common + rng.normal(size=len(clusters)) > 0.7 for _ in range(2))
    tokens = rng.integers(5, 50, len(clusters)).astype(float)
    columns = (value * tokens)[:, None], tokens[:, None]
    ratio, _ = ratio_intervals(*columns, clusters, np.zeros(1), np.zeros(1, bool)).tolist()
    return {
        "share of 50 %": mean((value > 0) * 1.0, clusters, True),
        "share of 80 %": mean((value < norm.ppf(0.8)) * 1.0, clusters, True),
        "share of 95 %": mean((value < norm.ppf(0.95)) * 1.0, clusters, True),
        "mean of a symmetric figure": mean(value, clusters),
        "mean of a skewed figure (log-normal)": mean(np.exp(0.7 * value), clusters),
        "difference of the shares of two equal models": mean(mine * 1.0 - theirs, clusters),
        "mean over tokens (held-out figures of a training)": (float((value * tokens).sum() / tokens.sum()), *ratio),
    }


def verdicts(
    rng: Random, better: Array, prompts: Array, shift: float = 0.0, lapse: float = 0.0, **more: Array
) -> Verdicts:
    """Return a judge's verdicts in both orders; `better`: log-odds that a is preferred, float[rows].

    `shift` is added for the reply shown first. With probability `lapse`, a verdict is the opposite one.
    """

    def said(odds: Array) -> Array:
        return np.where((rng.random(len(odds)) < expit(odds)) ^ (rng.random(len(odds)) < lapse), 1.0, -1.0)

    zero, no = np.zeros(len(prompts), int), np.zeros(len(prompts), bool)
    names = ("sample", "a", "seed_a", "seed_b", "judge", "length_a", "length_b")
    flags = ("question_a", "question_b", "formatted_a", "formatted_b")
    columns: dict[str, Any] = dict.fromkeys(names, zero) | dict.fromkeys(flags, no) | {"b": zero + 1} | more
    return Verdicts(
        prompt=prompts, client=prompts, forward=said(better + shift), backward=said(better - shift), **columns
    )


def win_rates(rng: Random, clusters: Array, samples: int) -> Measured:
    rows = len(clusters)
    lengths = {name: rng.integers(50, 300, rows) for name in ("length_a", "length_b")}
    longer = np.tanh((lengths["length_a"] - lengths["length_b"]) / 100)
    judged = verdicts(rng, 0.4 + 0.8 * longer + 0.8 * effects(rng, clusters), clusters, **lengths)
    controlled = length_controlled(judged, samples=samples)
    return {
        "win rate": triple(pair_figures(judged).win_rate),
        "length-controlled win rate": triple(controlled.win_rate),
        "effect of length on the win rate": triple(controlled.effects["length"]),
    }


def over_seeds(rng: Random, clusters: Array, samples: int) -> Measured:
    """Win rate over three seeds of a, whose strengths differ by 0.3 log-odds."""
    prompts, seeds = np.tile(clusters, 3), np.repeat(np.arange(3), len(clusters))
    better = 0.5 + effects(rng, prompts) + 0.3 * effects(rng, seeds)
    found = seed_figures(verdicts(rng, better, prompts, seed_a=seeds))
    return {"win rate over 3 seeds": (found.mean, *found.interval)}


def strengths(rng: Random, clusters: Array, samples: int) -> Measured:
    """Log-odds of the strongest of three settings; the true strengths are -0.5, 0.1 and 0.4."""
    pairs, true = np.array([(0, 1), (2, 1), (2, 0)]), np.array([-0.5, 0.1, 0.4])
    a, b = np.repeat(pairs, len(clusters), axis=0).T
    judged = verdicts(rng, true[a] - true[b], np.tile(clusters, 3), a=a, b=b)
    return {"strength of a setting": triple(bradley_terry(judged, samples).strengths[2].log_odds)}


def position(rng: Random, clusters: Array, samples: int) -> Measured:
    found = position_bias(verdicts(rng, latent(rng, clusters), clusters, shift=0.4))
    sure = 30.0 * rng.choice([-1, 1], len(clusters))
    wrong = position_bias(verdicts(rng, sure, clusters, lapse=0.1))
    return {
        "contradictions of a judge": triple(found.inconsistent),
        "first places": triple(found.first_place),
        "log-odds of the first place": triple(found.shift),
        "chance of a judge's error": triple(wrong.error),
    }


def labels(rng: Random, clusters: Array, raters: int) -> Array:
    """Return labels -1, 0 or 1 of raters who see the same value with errors of their own, float64[raters, rows]."""
    value = latent(rng, clusters)
    seen = value + 0.6 * rng.normal(size=(raters, len(clusters)))
    return np.where(seen > 0.5, 1.0, np.where(seen < -0.5, -1.0, 0.0))


def judges(rng: Random, clusters: Array, samples: int) -> Measured:
    found = agreement(*labels(rng, clusters, 2), clusters, samples)
    return {f"judges' {name}": triple(getattr(found, name)) for name in ("raw", "kappa", "ac1")}


def experts(rng: Random, clusters: Array, samples: int) -> Measured:
    values = labels(rng, clusters, 3).T + 1
    units = tuple((str(row), "") for row in range(len(values)))
    codes = Codes(values, units, clusters, ("1", "2", "3"), (0, 1, 2), np.eye(3), NOMINAL)
    found = with_intervals(codes, samples, 0)
    return {f"experts' {name}": triple(found[name]) for name in ("raw", "fleiss", "ac1", "alpha")}


def rewards(rng: Random, clusters: Array, samples: int) -> Measured:
    margins = 0.6 + 0.5 * effects(rng, clusters) + rng.normal(size=len(clusters))
    ids = [str(number) for number in rng.integers(0, 2**60, len(clusters))]
    found = reward_figures(ids, margins, clusters, samples)
    names = {
        "accuracy": "accuracy of a reward model",
        "auc": "AUC",
        "ece": "calibration error (almost calibrated)",
        "ece_adaptive": "adaptive calibration error (almost calibrated)",
        "brier": "Brier score",
        "calibration_slope": "slope of calibration",
        "aurc": "area under the risk-coverage curve",
        "accuracy_at_50": "accuracy on the surest half",
    }
    return {
        title: (found[name], found[f"{name}_low"], found[f"{name}_high"])
        for name, title in names.items()
        if name in found
    }


def correlations(rng: Random, clusters: Array, samples: int) -> Measured:
    first, second = latent(rng, clusters), rng.normal(size=len(clusters))
    second = 0.6 * first + 0.8 * second

    def correlation(rows: Array) -> float:
        return float(first[rows] @ second[rows] / np.sqrt((first[rows] @ first[rows]) * (second[rows] @ second[rows])))

    ends = bootstrap(correlation, clusters.tolist(), samples)
    return {"correlation with length": (correlation(np.arange(len(first))), *ends)}


@cache
def sample_features() -> dict[str, tuple[Any, Any]]:
    """Return the features of the pairs of the shipped sample by blind baseline, each with the function that fits it."""
    train, held_out = load_split(compose(["algo=reward"]).data, lambda line: None)
    pairs = pairs_from([*train, *held_out])
    values = cue_values(pairs.replies)
    return {
        "best single cue": (cue_signs(pairs, values)[0], fit_best_cue),
        "surface features": (values[pairs.chosen] - values[pairs.rejected], fit_logistic),
        "word 1-2-grams": (difference(tf_idf(word_ngrams(pairs.replies)), pairs.chosen, pairs.rejected), fit_sparse),
    }


def blind(rng: Random, clusters: Array, samples: int) -> Measured:
    """Accuracy of an audit's baselines, on pairs of the sample with random labels."""
    measured, folds = {}, by_component(clusters, 5, 0)
    rows, sides = rng.permutation(892)[: len(clusters)], rng.choice([-1.0, 1.0], int(clusters.max()) + 1)[clusters]
    for name, (features, fit) in sample_features().items():
        turned = features[rows]
        if isinstance(turned, np.ndarray):
            turned = turned * sides[:, None]
        else:
            turned.data = turned.data * np.repeat(sides, np.diff(turned.indptr))
        [found] = accuracies(cross_fit(turned, folds, fit, 1)[:, None], clusters, CROSS_FITTED)
        measured[f"blind baseline: {name}"] = found["accuracy"], found["low"], found["high"]
    return measured


BASELINES = ("best single cue", "surface features", "word 1-2-grams")
STRENGTHS = 0.5 + np.sqrt(1 + 0.3**2) * norm.ppf((np.arange(LARGE) + 0.5) / LARGE)  # of prompt and seed together
FAMILIES = (
    Family(means, times=1000),
    Family(win_rates, times=400),
    Family(over_seeds, times=600, truths={"win rate over 3 seeds": float(expit(STRENGTHS).mean())}),
    Family(strengths, times=400),
    Family(position, times=1000),
    Family(judges, times=600),
    Family(experts, times=50),
    Family(rewards, times=300),
    Family(correlations, times=400),
    Family(blind, times=400, truths={f"blind baseline: {name}": 0.5 for name in BASELINES}),
)


def covered(family: Family, count: int, large: bool) -> dict[str, float]:
    """Return the share of intervals that contain the true figure, by figure; data sets without an interval do not count."""
    truths = family.truths
    if truths is None:
        large_set = family.simulate(np.random.default_rng(0), np.arange(LARGE), 1)
        truths = {name: value for name, (value, _, _) in large_set.items()}
    held: dict[str, list[bool]] = {name: [] for name in truths}
    for trial in range(family.times):
        rng = np.random.default_rng([trial, count, large])
        clusters = np.repeat(np.arange(count), rng.integers(5, 21, count) if large else 1)
        for name, (_, low, high) in family.simulate(rng, clusters, SAMPLES).items():
            if not np.isnan([low, high]).any():
                held[name].append(low - 1e-9 <= truths[name] <= high + 1e-9)
    return {name: float(np.mean(of_figure)) for name, of_figure in held.items()}


def coverage(families: Sequence[Family] = FAMILIES) -> dict[str, dict[str, float]]:
    """Return the coverage by figure and layout."""
    table: dict[str, dict[str, float]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries: samples in which all labels are equal
        for family in families:
            for layout, shape in LAYOUTS.items():
                for name, share in covered(family, *shape).items():
                    table.setdefault(name, {})[layout] = share
    return table


def lines(table: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Yield the rows of the Markdown table."""
    yield f"| coverage (%) | {' | '.join(LAYOUTS)} |"
    yield "|---" * (len(LAYOUTS) + 1) + "|"
    for name, row in table.items():
        yield f"| {name} | {' | '.join(f'{100 * row[layout]:.0f}' for layout in LAYOUTS)} |"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for line in lines(coverage()):
        print(line)


if __name__ == "__main__":
    main()
