"""Test of reading: a scorer that reads the client's speech loses accuracy if the speech is swapped or removed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.messages import Message
from psychocounsel.errors import UserError
from psychocounsel.evaluation.audit.blind import accuracies
from psychocounsel.evaluation.audit.pairs import Pairs
from psychocounsel.metrics.intervals import bootstrap, difference_interval, mean_interval
from psychocounsel.metrics.replies import CONTENT_WORD
from psychocounsel.metrics.rewards import wins

Array = np.ndarray
# Maps n conversations that end with a reply to rewards, float[n], or to rewards and the scores of a model's heads,
# float[n, 1 + heads]; NaN for a conversation that is too long.
Score = Callable[[list[list[Message]]], Array]

REMOVED: list[Message] = [{"role": "user", "content": "Hello."}]  # replaces a removed speech


def reading_figures(
    margins: dict[str, Array], component: Array, overlap: dict[str, Array] | None = None
) -> dict[str, Any]:
    """Return the accuracy under each condition, and the gain of the client's `own` speech over each other condition.

    `margins`: float[n] of each condition, `own` first. `gains` holds, for each other condition, the mean paired difference
    (a pair's win with its own speech less its win in that condition) and its 95 % interval by components;
    `gains["swapped"]` measures how much the scorer reads. `left_out` is the number of pairs that have no margin in some
    condition; they are excluded from all conditions. With the margins of `overlap_margins`, `beyond_overlap` holds the
    result of that function.

    Raises:
        UserError: if no pair has margins in all conditions.
    """
    kept = ~np.isnan(np.column_stack(list(margins.values()))).any(1)
    if not kept.any():
        raise UserError(
            "every pair is too long for the reward model with its own or another client's speech: raise reward.max_length"
        )
    beyond = {} if overlap is None else {"beyond_overlap": beyond_overlap(margins, overlap, component)}
    margins, component = {name: values[kept] for name, values in margins.items()}, component[kept]
    columns = np.column_stack(list(margins.values()))
    won = wins(columns)
    gains = [(float(column.mean()), *difference_interval(column, component)) for column in (won[:, :1] - won[:, 1:]).T]
    return {
        **dict(zip(margins, accuracies(columns, component), strict=True)),
        "gains": {
            name: {"gain": mean, "low": low, "high": high}
            for name, (mean, low, high) in zip(list(margins)[1:], gains, strict=True)
        },
        "left_out": int((~kept).sum()),
        **beyond,
    }


def beyond_overlap(margins: dict[str, Array], overlap: dict[str, Array], component: Array) -> dict[str, Any]:
    """Return what a scorer reads beyond words shared with the speech.

    Args:
        margins: of the scorer, float[n] by condition, with `own` and `swapped`; NaN where a pair is too long.
        overlap: the same by `overlap_margins`.
        component: int[n]; intervals are over components.

    Returns:
        `gain`: the paired difference of both gains of the own speech, with `low` and `high`. `misled`: the scorer's accuracy
        on the pairs in which the overlap prefers the wrong reply, with `low`, `high` and `pairs`; None without such pairs.
    """
    kept = ~np.isnan(np.column_stack([margins["own"], margins["swapped"]])).any(1)
    own, swapped = (wins(margins[name][kept]) for name in ("own", "swapped"))
    by_words = [wins(overlap[name][kept]) for name in ("own", "swapped")]
    difference = (own - swapped) - (by_words[0] - by_words[1])
    low, high = difference_interval(difference, component[kept], 2)
    misled = None
    if (wrong := overlap["own"][kept] < 0).any():
        least, most = mean_interval(own[wrong], component[kept][wrong], shares=True)
        misled = {"accuracy": float(own[wrong].mean()), "low": least, "high": most, "pairs": int(wrong.sum())}
    return {"gain": {"value": float(difference.mean()), "low": low, "high": high}, "misled": misled}


def overlap_margins(pairs: Pairs, other: Array) -> dict[str, Array]:
    """Return margins by word overlap with the client's own speech and with another client's.

    `other`: index of the prompt that replaces each prompt, int64[prompts]. The overlap of a reply is the share of its
    distinct words (of four letters or more) that occur in the speech. A margin is the overlap of the chosen reply less
    that of the rejected one.
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


def reward_margins(pairs: Pairs, other: Array, score: Score) -> dict[str, Array]:
    """Return reward margins (chosen less rejected) with the client's own speech, another client's, and none.

    A margin has the columns of `score`: float[n], or float[n, 1 + heads].

    `score` receives each conversation once. If the speech is removed, the prompt's system message stays.
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
        [*prompts[prompt], {"role": "assistant", "content": pairs.replies[reply]}] for prompt, reply in numbers
    ]
    rewards = np.asarray(score(conversations), np.float64)
    return {name: rewards[chosen] - rewards[rejected] for name, (chosen, rejected) in wanted.items()}


def principle_reading(
    margins: Mapping[str, Array], overlap: Mapping[str, Array], ratings: Array, pairs: Pairs
) -> dict[str, dict[str, Any]]:
    """Return by principle how much its score reads the speech, and how it depends on the length of the reply.

    `pairs`: the number of pairs that differ in the rating of the principle; the better-rated reply is their chosen one. If
    the data have no ratings, all pairs count, with their own chosen reply. On these pairs: `reading_figures`
    with `beyond_overlap`, unless every pair is too long. `length`: the correlation of the difference in score with the
    difference in characters over all pairs, each in both orders, with `low` and `high`; `raters_length`: that of the
    ratings, over the rated pairs. None: one of them does not vary.

    Args:
        margins: of the principles' scores, float[n, 7] by condition, as `reward_margins` returns them.
        overlap: by `overlap_margins`, float[n].
        ratings: float[n, 2, 7]; NaN where a reply has no rating.
    """
    gaps = ratings[:, 0] - ratings[:, 1]
    sides = np.ones_like(gaps) if np.isnan(gaps).all() else np.nan_to_num(np.sign(gaps))
    sizes = np.array([len(reply) for reply in pairs.replies])
    longer = sizes[pairs.chosen] - sizes[pairs.rejected]
    fits = ~np.isnan(np.column_stack([values[:, 0] for values in margins.values()])).any(1)
    figures = {}
    for column, name in enumerate(PRINCIPLES):
        side, component = sides[:, column], pairs.component
        of_principle: dict[str, Any] = {
            "pairs": int((side != 0).sum()),
            "length": _with_length(margins["own"][:, column], longer, component),
            "raters_length": _with_length(gaps[:, column], longer, component),
        }
        if ((side != 0) & fits).any():
            rows = np.flatnonzero(side)
            of_head, of_words = (
                {condition: side[rows] * values[rows] for condition, values in table.items()}
                for table in ({condition: values[:, column] for condition, values in margins.items()}, overlap)
            )
            of_principle |= reading_figures(of_head, component[rows], of_words)
        figures[name] = of_principle
    return figures


def _with_length(margins: Array, longer: Array, component: Array) -> dict[str, float] | None:
    """Return the correlation of `margins` with `longer`, float[n] each, and its interval; pairs count in both orders."""
    known = ~np.isnan(margins)
    margins, longer, component = margins[known], longer[known], component[known]

    def correlation(rows: Array) -> float:
        size = float(np.sqrt(np.square(margins[rows]).sum() * np.square(longer[rows]).sum()))
        return float(margins[rows] @ longer[rows]) / size if size else float("nan")

    if np.isnan(value := correlation(np.arange(len(margins)))):
        return None
    low, high = bootstrap(correlation, component.tolist())
    return {"value": value, "low": low, "high": high}


def _numbers(numbers: dict[tuple[int, int], int], prompt: Array, reply: Array) -> Array:
    """Return the number of each (prompt, reply) in `numbers`; new ones are added."""
    rows: Sequence[tuple[int, int]] = list(zip(prompt.tolist(), reply.tolist(), strict=True))
    return np.array([numbers.setdefault(row, len(numbers)) for row in rows], np.int64)


def _words(text: str, known: dict[str, int]) -> set[int]:
    """Return the distinct words as numbers, which take little memory. New words are added to `known`."""
    return {known.setdefault(word, len(known)) for word in CONTENT_WORD.findall(text.lower())}


# Swapped speeches: each prompt gets the speech of a client in another component, preferably of the same topic.


def other_prompts(pairs: Pairs, topic: np.ndarray, seed: int) -> np.ndarray:
    """Return the index of the prompt that replaces each prompt, int64[prompts]. `topic`: topic of each pair, int64[n].

    The prompts of a topic are shuffled, and each is replaced by the next one from another component, so that hardly any
    speech is used twice.

    Raises:
        ValueError: if all pairs are in one component.
    """
    if pairs.component.min() == pairs.component.max():
        raise ValueError("one component has no other clients")
    count = len(pairs.prompts)
    component, topics = np.empty(count, np.int64), np.empty(count, np.int64)
    component[pairs.prompt], topics[pairs.prompt] = pairs.component, topic
    order = np.random.default_rng(seed).permutation(count)
    result = np.full(count, -1, np.int64)
    for members in [*(order[topics[order] == number] for number in np.unique(topics)), order]:
        for place, prompt in enumerate(members):
            if result[prompt] < 0:
                result[prompt] = _next(members, place, component)
    return result


def _next(members: np.ndarray, place: int, component: np.ndarray) -> int:
    """Return the first prompt after `place`, cyclically, that is in another component; -1 if all are in the same one."""
    own = component[members[place]]
    for step in range(1, len(members)):
        other = members[(place + step) % len(members)]
        if component[other] != own:
            return int(other)
    return -1
