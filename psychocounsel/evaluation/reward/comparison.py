"""Several reward models on the same pairs, beside each other and beside the audit's baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from psychocounsel.data.rows import Example
from psychocounsel.errors import UserError
from psychocounsel.evaluation.audit.blind import blind_baselines
from psychocounsel.evaluation.audit.pairs import LEAST_COMPONENTS, Pairs, pair_ratings, pairs_from
from psychocounsel.evaluation.audit.reading import (
    other_prompts,
    overlap_margins,
    principle_reading,
    reading_figures,
)
from psychocounsel.evaluation.audit.topics import NONE, Topics, topics_of
from psychocounsel.evaluation.reward.figures import flipped_figures, reward_figures
from psychocounsel.metrics.intervals import bootstrap, difference_interval, mean_interval
from psychocounsel.metrics.rewards import METRICS, wins
from psychocounsel.metrics.win_rates import Tested, adjusted_tests, cluster_scores
from psychocounsel.steps.course import Say

# Several reward models on the same pairs: the paper's table, and the difference of each model to the first.

Figures = dict[str, Any]


def side_by_side(
    examples: Sequence[Example],
    margins: Mapping[str, np.ndarray],
    component: np.ndarray,
    rankings: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Figures:
    """Return the figures of each model, and paired differences to the first model, on the pairs that all models judged.

    Args:
        examples: n pairs, chosen reply first.
        margins: margins by model name, float[n] each; NaN if a pair is too long for the model.
        rankings: mean verdicts of both orders by ranker, float[n] from -1 to 1; NaN where a verdict is missing. Rankers
            only have an `accuracy`: the share of verdicts that prefer the chosen reply, a tie counting half.
        component: int[n]; pairs of two components share no text. Intervals are over components.

    Returns:
        `pairs` and `left_out`, the numbers of pairs used and skipped, and `models`. A model has the figures of
        `reward_figures` and `flipped_figures`. All models but the first also have `differences`: `value`, `low` and `high` for
        each column of the table, and for `accuracy` the sign-flip p-value over components, `p`, and `p_adjusted` by Holm.

    Raises:
        UserError: if no pair was judged by all models.
    """
    kept = np.flatnonzero(~np.isnan(np.column_stack([*margins.values(), *rankings.values()])).any(1))
    if not len(kept):
        raise UserError(
            "compare: no pair is short enough for all reward models and has verdicts of all language models"
        )
    rows = [examples[row] for row in kept]
    ids, component = [row.id for row in rows], component[kept]
    first, *_ = margins.values()
    models: dict[str, Figures] = {}
    for name, model_margins in margins.items():
        models[name] = {
            **reward_figures(ids, model_margins[kept], component),
            **flipped_figures(rows, model_margins[kept]),
        }
        if model_margins is not first:
            models[name]["differences"] = _differences(model_margins[kept], first[kept], component)
    right = {name: wins(model_margins[kept]) for name, model_margins in margins.items()}
    for name, verdicts in rankings.items():
        right[name] = (1 + verdicts[kept]) / 2
        models[name] = _ranked(right[name], wins(first[kept]), component)
    for name, test in _tests(right, component).items():
        models[name]["differences"]["accuracy"] |= {"p": test.raw, "p_adjusted": test.adjusted}
    return {"pairs": len(kept), "left_out": len(examples) - len(kept), "models": models}


def _ranked(right: np.ndarray, first: np.ndarray, component: np.ndarray) -> Figures:
    """Return a ranker's accuracy and its difference to the first model's accuracy, from scores of each pair [0 to 1].

    `right` are the ranker's scores: means over both orders, in steps of 1/4. `first` are the first model's scores: 0,
    1/2 or 1.
    """
    low, high = mean_interval(right, component, shares=True)
    least, most = difference_interval(right - first, component)
    difference = {"value": float((right - first).mean()), "low": least, "high": most}
    return {
        **{"accuracy": float(right.mean()), "accuracy_low": low, "accuracy_high": high},
        "differences": {"accuracy": difference},
    }


def _tests(right: Mapping[str, np.ndarray], component: np.ndarray) -> dict[str, Tested]:
    """Return sign-flip tests over components of "as accurate as the first model", adjusted over the table."""
    (_, first), *others = right.items()
    return adjusted_tests({name: cluster_scores((scores - first) / 2, component) for name, scores in others})


def _differences(margins: np.ndarray, first: np.ndarray, component: np.ndarray) -> Figures:
    differences, right = {}, wins(margins) - wins(first)
    for name, metric in METRICS.items():
        if name == "accuracy":  # equal differences must not promise certainty
            low, high = difference_interval(right, component)
        else:
            low, high = bootstrap(
                lambda rows, metric=metric: metric(margins[rows]) - metric(first[rows]),  # type: ignore[misc]
                component.tolist(),
            )
        differences[name] = {"value": metric(margins) - metric(first), "low": low, "high": high}
    return differences


# The audit's baselines on the pairs of an evaluation: accuracy without the client's speech, and by word overlap.

# Largest number of pairs for which baselines are computed by default, because each model scores every pair three times.
_MOST = 1000
_FOLDS, _PERMUTATIONS, _SEED = 5, 2000, 0  # the audit's defaults


@dataclass(frozen=True)
class Ground:
    """Input of the baselines: the pairs in the audit's form, their topics, and another client's prompt for each prompt.

    `other`: for each prompt, the index of the other client's prompt, int64[prompts].
    """

    pairs: Pairs
    topics: Topics
    other: np.ndarray


def ground_of(examples: Sequence[Example], wanted: bool | None, say: Say) -> Ground | None:
    """Return the input of the baselines; None if they are not computed.

    `wanted`: True or False as set by the user; None computes them unless there are too many or too few pairs.

    Raises:
        UserError: if `wanted` is True and there are too few clients to hold some out.
    """
    if wanted is False:
        return None
    if wanted is None and len(examples) > _MOST:
        say(f"the audit's baselines are skipped for more than {_MOST:,} pairs: evaluation.baselines=true computes them")
        return None
    pairs = pairs_from(examples)
    if pairs.components < LEAST_COMPONENTS:
        if wanted:
            raise UserError(
                f"evaluation.baselines=true: the pairs form {pairs.components} components that share no text, but "
                f"{LEAST_COMPONENTS} are needed: give pairs of more clients, or omit evaluation.baselines"
            )
        return None
    topics = topics_of(pairs, _SEED)
    return Ground(pairs, topics, other_prompts(pairs, topics.of_pair, _SEED))


def baseline_figures(ground: Ground) -> Figures:
    """Return the accuracy of the audit's baselines on the pairs; docs/audit.md defines them.

    `blind` holds `accuracy`, `low` and `high` of each speech-blind baseline, fitted by cross-validation over prompts.
    `overlap` holds the `reading_figures` of a scorer that prefers the reply with more of the speech's words.
    """
    # Only folds by prompt: folds by topic would double the time.
    by_prompt = replace(ground.topics, source=NONE)
    blind = blind_baselines(ground.pairs, by_prompt, _FOLDS, _PERMUTATIONS, _SEED)
    return {
        "blind": {name: by_scheme["by_prompt"] for name, by_scheme in blind["baselines"].items()},
        "overlap": reading_figures(overlap_margins(ground.pairs, ground.other), ground.pairs.component),
    }


def reading_of(ground: Ground, margins: dict[str, np.ndarray]) -> Figures | None:
    """Return how much a reward model uses the speech, as the audit measures it.

    None if every pair is too long for the model with its own or another client's speech.
    """
    if np.isnan(np.column_stack(list(margins.values()))).any(1).all():
        return None
    return reading_figures(margins, ground.pairs.component, overlap_margins(ground.pairs, ground.other))


def principle_reading_of(ground: Ground, examples: Sequence[Example], margins: Mapping[str, np.ndarray]) -> Figures:
    """Return how much the score of each principle uses the speech, from margins float[n, 7], as the audit measures it."""
    return principle_reading(margins, overlap_margins(ground.pairs, ground.other), pair_ratings(examples), ground.pairs)
