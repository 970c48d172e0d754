"""Metrics of replies that a policy wrote."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from psychocounsel.data.group import Array, Group

_GRAM = 4


def reply_metrics(groups: Sequence[Group], reference: list[list[Array]] | None, prefix: str) -> dict[str, float]:
    """Return means over all replies of `groups`, as `<prefix>/<name>`; empty without replies.

    `reward`: mean reward, and `reward_<member>` for each member of an ensemble of reward models.
    `length`: mean number of tokens.
    `unfinished`: share of replies that were cut at the length limit.
    `repetition`: mean of `repetition` over replies.
    `kl`: mean over replies of sum over tokens of log pi - log ref [nats]; only with `reference`, log-probabilities
    float32[len] for each reply of each group.
    """
    replies = [completion for group in groups for completion in group.completions]
    if not replies:
        return {}
    figures: dict[str, list[float]] = {
        "reward": [reply.reward or 0.0 for reply in replies],
        "length": [len(reply.ids) for reply in replies],
        "unfinished": [reply.finish_reason == "length" for reply in replies],
        "repetition": [repetition(reply.ids.tolist()) for reply in replies],
    }
    for name in sorted({name for reply in replies for name in reply.reward_parts or ()}):
        figures[f"reward_{name}"] = [(reply.reward_parts or {}).get(name, 0.0) for reply in replies]
    if reference is not None:
        flat = [values for some in reference for values in some]
        figures["kl"] = [
            float((reply.logprobs - values).sum()) if reply.logprobs is not None else 0.0
            for reply, values in zip(replies, flat, strict=True)
        ]
    return {f"{prefix}/{name}": float(np.mean(values)) for name, values in figures.items()}


def repetition(ids: Sequence[int]) -> float:
    """Return the share of four-token runs in `ids` that repeat an earlier run; 0 for fewer than five tokens.

    1 - (number of distinct runs) / (number of runs), in [0, 1].
    """
    runs = [tuple(ids[start : start + _GRAM]) for start in range(len(ids) - _GRAM + 1)]
    return 1 - len(Counter(runs)) / len(runs) if len(runs) > 1 else 0.0
