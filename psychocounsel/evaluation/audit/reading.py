"""Baselines that see the client's speech: whether they read it shows when it is another client's, or gone."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from psychocounsel.data.rows import Message
from psychocounsel.data.tokenise import with_system_prompt
from psychocounsel.errors import UserError
from psychocounsel.evaluation.audit.audited_pairs import Pairs
from psychocounsel.evaluation.audit.blind import wins
from psychocounsel.metrics.stats import mean_intervals

Array = np.ndarray
Score = Callable[
    [list[list[Message]]], Array
]  # conversations that end with a reply -> float[n], NaN if one is too long

REMOVED: list[Message] = [{"role": "user", "content": "Hello."}]  # what stands in the place of a speech that is removed
_WORD = re.compile(r"[^\W\d_]{4,}")  # shorter ones are mostly of the kind that all texts share


def reading_figures(margins: dict[str, Array], component: Array) -> dict[str, Any]:
    """Accuracy with the client's `own` speech and in each other condition, and how much better it is with the own one.

    `margins`: float[n] of each condition, `own` first. `gains` holds, for each other condition, the mean of what a pair wins
    more with its own speech, and the 95 % interval of these paired differences by components: `gains["swapped"]` is how much
    the scorer reads. `left_out`: pairs without a margin in some condition, which count in none.

    Raises:
        UserError: if no pair is left.
    """
    kept = ~np.isnan(np.column_stack(list(margins.values()))).any(1)
    if not kept.any():
        raise UserError(
            "no pair fits the reward model with its own and another client's speech: raise reward.max_length"
        )
    margins, component = {name: found[kept] for name, found in margins.items()}, component[kept]
    won = np.column_stack([wins(found) for found in margins.values()])
    columns = np.column_stack([won, won[:, :1] - won[:, 1:]])
    are_shares = np.arange(columns.shape[1]) < len(margins)
    means, intervals = columns.mean(0).tolist(), mean_intervals(columns, component, shares=are_shares).tolist()
    whole = [{"accuracy": mean, "low": low, "high": high} for mean, (low, high) in zip(means, intervals, strict=True)]
    gains = [{"gain": found["accuracy"], "low": found["low"], "high": found["high"]} for found in whole[len(margins) :]]
    return {
        **dict(zip(margins, whole, strict=False)),
        "gains": dict(zip(list(margins)[1:], gains, strict=True)),
        "left_out": int((~kept).sum()),
    }


def overlap_margins(pairs: Pairs, other: Array) -> dict[str, Array]:
    """By how much more of its words the chosen reply takes from the speech: the client's own, or that of prompt `other`.

    Words are those of four letters or more; the share is that of a reply's distinct words.
    """
    known: dict[str, int] = {}
    speeches = [_words(pairs.speech(number), known) for number in range(len(pairs.prompts))]
    replies = [_words(reply, known) for reply in pairs.replies]

    def share(reply: int, prompt: int) -> float:
        return len(replies[reply] & speeches[prompt]) / max(len(replies[reply]), 1)

    def margins(prompts: Array) -> Array:
        rows = zip(pairs.chosen.tolist(), pairs.rejected.tolist(), prompts.tolist(), strict=True)
        return np.array([share(chosen, prompt) - share(rejected, prompt) for chosen, rejected, prompt in rows])

    return {"own": margins(pairs.prompt), "swapped": margins(other[pairs.prompt])}


def reward_margins(pairs: Pairs, other: Array, score: Score, system_prompt: str | None) -> dict[str, Array]:
    """Rewards of the chosen less those of the rejected reply after the own speech, another client's, and none.

    `score` gets each conversation once. A removed speech leaves the prompt's system message where it is.
    """
    systems = [[message for message in prompt if message["role"] == "system"] for prompt in pairs.prompts]
    prompts: list[list[Message]] = [*pairs.prompts, *([*system, *REMOVED] for system in systems)]
    conditions = {
        "own": pairs.prompt,
        "swapped": other[pairs.prompt],
        "removed": len(pairs.prompts) + pairs.prompt,
    }
    numbers: dict[tuple[int, int], int] = {}
    wanted = {
        name: [_numbers(numbers, prompt, side) for side in (pairs.chosen, pairs.rejected)]
        for name, prompt in conditions.items()
    }
    conversations = [
        [*with_system_prompt(prompts[prompt], system_prompt), {"role": "assistant", "content": pairs.replies[reply]}]
        for prompt, reply in numbers
    ]
    rewards = np.asarray(score(conversations), np.float64)
    return {name: rewards[chosen] - rewards[rejected] for name, (chosen, rejected) in wanted.items()}


def _numbers(numbers: dict[tuple[int, int], int], prompt: Array, reply: Array) -> Array:
    """The number of each (prompt, reply), new ones included."""
    rows: Sequence[tuple[int, int]] = list(zip(prompt.tolist(), reply.tolist(), strict=True))
    return np.array([numbers.setdefault(row, len(numbers)) for row in rows], np.int64)


def _words(text: str, known: dict[str, int]) -> set[int]:
    """The distinct words by their numbers in `known`, to which new ones are added: sets of these take little memory."""
    return {known.setdefault(word, len(known)) for word in _WORD.findall(text.lower())}
