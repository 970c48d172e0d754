"""The audit's baselines on the pairs of an evaluation: accuracy without the client's speech, and by word overlap."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from psychocounsel.data.rows import Example
from psychocounsel.errors import UserError
from psychocounsel.evaluation.audit.audited_pairs import Pairs, pairs_from
from psychocounsel.evaluation.audit.auditing import LEAST_COMPONENTS
from psychocounsel.evaluation.audit.blind import TITLES, blind_baselines
from psychocounsel.evaluation.audit.reading import overlap_margins, reading_figures
from psychocounsel.evaluation.audit.swapping import other_prompts
from psychocounsel.evaluation.audit.topics import NONE, Topics, topics_of

Figures = dict[str, Any]
Say = Callable[[str], None]

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
    components = len(np.unique(pairs.component))
    if components < LEAST_COMPONENTS:
        if wanted:
            raise UserError(
                f"evaluation.baselines=true: the pairs form {components} components that share no text, but "
                f"{LEAST_COMPONENTS} are needed: give pairs of more clients, or omit evaluation.baselines"
            )
        return None
    topics = topics_of(pairs, _SEED)
    return Ground(pairs, topics, other_prompts(pairs, topics.of_pair, _SEED))


def baseline_figures(ground: Ground, steps: Callable[[Iterable[str]], Iterable[str]] = iter) -> Figures:
    """Return the accuracy of the audit's baselines on the pairs; docs/audit.md defines them.

    `blind` holds `accuracy`, `low` and `high` of each speech-blind baseline, fitted by cross-validation over prompts.
    `overlap` holds the `reading_figures` of a scorer that prefers the reply with more of the speech's words. `steps`
    wraps the loop over the blind baselines, for a progress bar.
    """
    workers = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    # Only folds by prompt: folds by topic would double the time.
    by_prompt = replace(ground.topics, source=NONE)
    blind = blind_baselines(ground.pairs, by_prompt, _FOLDS, _PERMUTATIONS, _SEED, workers, steps)
    return {
        "blind": {name: found["by_prompt"] for name, found in blind.baselines.items()},
        "overlap": reading_figures(overlap_margins(ground.pairs, ground.other), ground.pairs.component),
    }


def reading_of(ground: Ground, margins: dict[str, np.ndarray]) -> Figures | None:
    """Return how much a reward model uses the speech, as the audit measures it.

    None if every pair is too long for the model with its own or another client's speech.
    """
    if np.isnan(np.column_stack(list(margins.values()))).any(1).all():
        return None
    return reading_figures(margins, ground.pairs.component)


def say_baselines(figures: Figures, reading: dict[str, Figures | None], say: Say) -> None:
    """Print one line for each baseline, and two lines for each reward model in `reading`."""
    say(
        "\naccuracy of the audit's baselines on these pairs (docs/audit.md), 95 % intervals by prompts that share no reply"
    )
    for name, found in figures["blind"].items():
        say(f"  {TITLES[name]:<30}{found['accuracy']:>7.3f}   {_interval(found)}, without the client's speech")
    own, gain = figures["overlap"]["own"], figures["overlap"]["gains"]["swapped"]
    say(f"  {'words of the speech':<30}{own['accuracy']:>7.3f}   {_interval(own)}; {_gain(gain, 'another client')}")
    for name, found in reading.items():
        if found is None:
            say(f"  {name}: no pair with another client's speech fits into the model")
            continue
        for condition, title in (("swapped", "another client's speech"), ("removed", "no speech")):
            gain = found["gains"][condition]
            say(f"  {f'{name}, {title}':<30}{found[condition]['accuracy']:>7.3f}   {_gain(gain, title)}")


def _interval(found: Figures) -> str:
    return f"{found['low']:.3f} to {found['high']:.3f}"


def _gain(found: Figures, than: str) -> str:
    return f"the client's speech gains {found['gain']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f}) over {than}"
