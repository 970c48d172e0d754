"""The audit's baselines on the pairs of an evaluation: accuracy without the client's speech, and by word overlap with it."""

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

_MOST = 1000  # pairs, unless baselines are asked for: each model then scores every pair three times
_FOLDS, _PERMUTATIONS, _SEED = 5, 2000, 0  # as the audit has them by default


@dataclass(frozen=True)
class Ground:
    """The pairs as the audit looks at them, and for each prompt another client's, int64[prompts]."""

    pairs: Pairs
    topics: Topics
    other: np.ndarray


def ground_of(examples: Sequence[Example], wanted: bool | None, say: Say) -> Ground | None:
    """What baselines need, or None where they are not wanted, or (unless they are asked for) pairs are too many or too few.

    Raises:
        UserError: if they are asked for and clients are too few to hold any out.
    """
    if wanted is False:
        return None
    if wanted is None and len(examples) > _MOST:
        say(f"the audit's baselines are left out of more than {_MOST:,} pairs: evaluation.baselines=true computes them")
        return None
    pairs = pairs_from(examples)
    components = len(np.unique(pairs.component))
    if components < LEAST_COMPONENTS:
        if wanted:
            raise UserError(
                f"evaluation.baselines=true: the pairs are of {components} components that share no text, and "
                f"{LEAST_COMPONENTS} are needed: give pairs of more clients, or leave it out"
            )
        return None
    topics = topics_of(pairs, _SEED)
    return Ground(pairs, topics, other_prompts(pairs, topics.of_pair, _SEED))


def baseline_figures(ground: Ground, steps: Callable[[Iterable[str]], Iterable[str]] = iter) -> Figures:
    """`blind`: `accuracy`, `low` and `high` of each speech-blind baseline, fitted without the prompts it is judged on, and
    `overlap`: of preferring the reply that shares more words with the speech, with its `gains`. Both as the audit defines them.
    """
    workers = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    # Folds by prompt alone: those by topic would double the time.
    by_prompt = replace(ground.topics, source=NONE)
    blind = blind_baselines(ground.pairs, by_prompt, _FOLDS, _PERMUTATIONS, _SEED, workers, steps)
    return {
        "blind": {name: found["by_prompt"] for name, found in blind.baselines.items()},
        "overlap": reading_figures(overlap_margins(ground.pairs, ground.other), ground.pairs.component),
    }


def reading_of(ground: Ground, margins: dict[str, np.ndarray]) -> Figures | None:
    """How much a reward model reads, as the audit measures it; None if it can read no pair with another client's speech."""
    if np.isnan(np.column_stack(list(margins.values()))).any(1).all():
        return None
    return reading_figures(margins, ground.pairs.component)


def say_baselines(figures: Figures, reading: dict[str, Figures | None], say: Say) -> None:
    """A line for each baseline, and two for each reward model in `reading`."""
    say(
        "\nwhat the audit's baselines reach on these pairs (docs/audit.md), 95 % intervals by prompts that share no reply"
    )
    for name, found in figures["blind"].items():
        say(f"  {TITLES[name]:<30}{found['accuracy']:>7.3f}   {_interval(found)}, without the client's speech")
    own, gain = figures["overlap"]["own"], figures["overlap"]["gains"]["swapped"]
    say(f"  {'words of the speech':<30}{own['accuracy']:>7.3f}   {_interval(own)}; {_gain(gain, 'another client')}")
    for name, found in reading.items():
        if found is None:
            say(f"  {name}: no pair fits it with another client's speech")
            continue
        for condition, title in (("swapped", "another client's speech"), ("removed", "no speech")):
            gain = found["gains"][condition]
            say(f"  {f'{name}, {title}':<30}{found[condition]['accuracy']:>7.3f}   {_gain(gain, title)}")


def _interval(found: Figures) -> str:
    return f"{found['low']:.3f} to {found['high']:.3f}"


def _gain(found: Figures, than: str) -> str:
    return f"the own speech gains {found['gain']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f}) over {than}"
