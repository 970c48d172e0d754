"""Flipped pairs: the same two replies under two prompts, with the opposite reply chosen.

A scorer that ignores the client gives a reply the same score under both prompts, so it wins exactly half of these pairs.
"""

from collections.abc import Callable, Sequence

import numpy as np

from psychocounsel.data.rows import Example
from psychocounsel.data.selection.shared_text import components_of, normalised, same_texts
from psychocounsel.metrics.stats import mean_intervals


def flipped_rows(examples: Sequence[Example]) -> np.ndarray:
    """Return the row numbers of all flipped pairs, int64[n].

    A pair is flipped if another pair with another prompt has the same replies with chosen and rejected exchanged.
    """
    texts = same_texts([reply for example in examples for reply in example.replies[:2]]).reshape(-1, 2).tolist()
    prompts = [normalised(example.prompt) for example in examples]
    found: dict[tuple[int, int], set[str]] = {}
    for (chosen, rejected), prompt in zip(texts, prompts, strict=True):
        found.setdefault((chosen, rejected), set()).add(prompt)
    rows = zip(texts, prompts, strict=True)
    kept = [row for row, ((chosen, rejected), own) in enumerate(rows) if found.get((rejected, chosen), set()) - {own}]
    return np.array(kept, np.int64)


def flipped_figures(examples: Sequence[Example], margins: np.ndarray) -> dict[str, float]:
    """Return the number of flipped pairs, and `flipped_accuracy` with its 95 % interval (`_low`, `_high`).

    `margins`: float[len(examples)], r_chosen - r_rejected. A tie counts half. The interval is a bootstrap over components of
    pairs that share text. The result is {} if no pair is flipped.
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
    """Print a line for the figures of `flipped_figures`, if `figures` contains them."""
    if "flipped_pairs" in figures:
        say(
            f"{'flipped pairs':<22}{figures['flipped_accuracy']:>7.3f}   95 % interval: {figures['flipped_accuracy_low']:.3f} to "
            f"{figures['flipped_accuracy_high']:.3f}, {figures['flipped_pairs']} pairs; ignoring the client gives 0.500"
        )
