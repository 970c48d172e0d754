"""Accuracy of a reward model on slices of the pairs: by topic, crisis, gap of ratings, and difference in length."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from psychocounsel.counsel.risk_rules import NONE, read_risk_rules
from psychocounsel.counsel.topic_rules import read_topics
from psychocounsel.data.rows import Example
from psychocounsel.metrics.stats import mean_intervals

Figures = dict[str, Any]

FEW = 20  # components; with fewer, an interval is not reliable
_EQUAL_LENGTH = 0.1  # replies count as equally long up to this difference [share of the longer reply]
_GAPS = (0.125, 0.25, 0.5)  # shares of the rating range: 0.5, 1 and 2 points on a scale from 1 to 5


def pair_slices(
    examples: Sequence[Example], margins: np.ndarray, component: np.ndarray, rating_range: Sequence[float]
) -> Figures:
    """Return the slices `topic`, `crisis`, `risk`, `length`, and `gap` if all pairs have ratings.

    Each is {"by": ..., "slices": ...}. `slices` maps the name of a slice to its figures: `accuracy` (a tie counts half)
    with a 95 % interval by components (`low`, `high`), `pairs`, `components`, and `few`, which is true below 20
    components. `by` counts the pairs by the source of their slice's name: a `column` of the data, `rules` (English cues
    of `psychocounsel/counsel/`), `texts`, or `ratings`.

    Args:
        examples: n pairs, chosen reply first.
        margins: float[n], r_chosen - r_rejected.
        component: int[n]; pairs of two components share no text.
        rating_range: lowest and highest rating.
    """
    won = (margins > 0) + 0.5 * (margins == 0)
    kinds = {
        "topic": [_topic(example) for example in examples],
        "crisis": [_crisis(example) for example in examples],
        "risk": [_risk(example) for example in examples],
        "gap": _gaps(examples, rating_range),
        "length": [(_length(example), "texts") for example in examples],
    }
    return {
        kind: {
            "by": dict(Counter(by for _, by in named)),
            "slices": _slices([name for name, _ in named], won, component),
        }
        for kind, named in kinds.items()
        if named
    }


def say_slices(figures: Figures, say: Callable[[str], None]) -> None:
    """Print a table of all slices except `risk`, with a note on slices named by rules or with few components."""
    say("\naccuracy by kind of pair, 95 % intervals by prompts that share no reply")
    for kind, found in figures.items():
        if kind == "risk":
            continue
        for name, row in found["slices"].items():
            notes = [f"{row['pairs']} pairs"]
            notes += ["by rules"] if found["by"].get("rules") else []
            notes += [f"few: {row['components']} components"] if row["few"] else []
            interval = f"{row['low']:.3f} to {row['high']:.3f}"
            say(f"  {f'{kind}: {name}':<30}{row['accuracy']:>7.3f}   {interval}, {', '.join(notes)}")


def _slices(names: Sequence[str], won: np.ndarray, component: np.ndarray) -> Figures:
    found, column = {}, np.array(names)
    for name in _ordered(names):
        rows = np.flatnonzero(column == name)
        low, high = mean_intervals(won[rows, None], component[rows], shares=True)[0].tolist()
        components = len(np.unique(component[rows]))
        found[name] = {
            **{"accuracy": float(won[rows].mean()), "low": low, "high": high},
            **{"pairs": len(rows), "components": components, "few": components < FEW},
        }
    return found


def _ordered(names: Iterable[str]) -> list[str]:
    """Return the names of the slices, the largest slice first."""
    return [name for name, _ in sorted(Counter(names).items(), key=lambda each: (-each[1], each[0]))]


def _speech(example: Example) -> str:
    return "\n".join(message["content"] for message in example.prompt if message["role"] == "user")


def _topic(example: Example) -> tuple[str, str]:
    if example.topic:
        return example.topic, "column"
    return read_topics().of(_speech(example)).coarse or "unknown", "rules"


def _risk(example: Example) -> tuple[str, str]:
    found = read_risk_rules(may_clear=True).of(_speech(example), example.risk)
    return found.kind, found.source


def _crisis(example: Example) -> tuple[str, str]:
    kind, by = _risk(example)
    return "no" if kind == NONE else "yes", by


def _gaps(examples: Sequence[Example], rating_range: Sequence[float]) -> list[tuple[str, str]]:
    """Return the slice of each pair by the difference of its mean ratings; [] if a pair has no ratings."""
    edges = [share * (rating_range[1] - rating_range[0]) for share in _GAPS]
    names = [f"under {edges[0]:g}", *(f"{low:g} to {high:g}" for low, high in pairwise(edges))]
    names.append(f"{edges[-1]:g} or more")
    found = []
    for example in examples:
        if not example.scores:
            return []
        # Rounded, because mean ratings carry floating-point errors.
        gap = round(abs(example.scores[0] - example.scores[1]), 9)
        found.append((names[sum(gap >= edge for edge in edges)], "ratings"))
    return found


def _length(example: Example) -> str:
    chosen, rejected = (len(reply) for reply in example.replies[:2])
    if abs(chosen - rejected) <= _EQUAL_LENGTH * max(chosen, rejected):
        return "about equal"
    return "chosen is longer" if chosen > rejected else "chosen is shorter"
