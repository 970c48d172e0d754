"""Flipped pairs: two replies that stand under two clients, of whom each is served better by the other reply.

A scorer that ignores the client gives a reply the same score under both clients, so it wins exactly half of these pairs.
"""

from collections.abc import Callable, Sequence

import numpy as np

from psychocounsel.data.rows import Example
from psychocounsel.data.selection.shared_text import components_of, normalised, same_texts
from psychocounsel.metrics.stats import mean_intervals


def flipped_rows(examples: Sequence[Example]) -> np.ndarray:
    """The rows of all pairs whose two replies stand in another pair the other way round, under another prompt; int64[n]."""
    texts = same_texts([reply for example in examples for reply in example.replies[:2]]).reshape(-1, 2).tolist()
    prompts = [normalised(example.prompt) for example in examples]
    found: dict[tuple[int, int], set[str]] = {}
    for (chosen, rejected), prompt in zip(texts, prompts, strict=True):
        found.setdefault((chosen, rejected), set()).add(prompt)
    rows = zip(texts, prompts, strict=True)
    kept = [row for row, ((chosen, rejected), own) in enumerate(rows) if found.get((rejected, chosen), set()) - {own}]
    return np.array(kept, np.int64)


def flipped_figures(examples: Sequence[Example], margins: np.ndarray) -> dict[str, float]:
    """`flipped_pairs`, their number, and `flipped_accuracy` with its 95 % interval, `flipped_accuracy_low` and `_high`.

    `margins`: float[len(examples)], the reward of the chosen less that of the rejected reply. A tie wins half. The interval is
    a bootstrap of components of shared text. Empty if no pair is flipped.
    """
    rows = flipped_rows(examples)
    if not len(rows):
        return {}
    won = (margins[rows] > 0) + 0.5 * (margins[rows] == 0)
    component = components_of([examples[row] for row in rows])
    low, high = mean_intervals(won[:, None], component, shares=True)[0].tolist()
    return {
        "flipped_pairs": len(rows),
        "flipped_accuracy": float(won.mean()),
        "flipped_accuracy_low": low,
        "flipped_accuracy_high": high,
    }


def say_flipped(figures: dict[str, float], say: Callable[[str], None]) -> None:
    """A line for the figures of `flipped_figures`, if they are among `figures`."""
    if "flipped_pairs" in figures:
        say(
            f"{'flipped pairs':<22}{figures['flipped_accuracy']:>7.3f}   95 % interval: {figures['flipped_accuracy_low']:.3f} to "
            f"{figures['flipped_accuracy_high']:.3f}, of {figures['flipped_pairs']} pairs; not reading the client gives 0.500"
        )
