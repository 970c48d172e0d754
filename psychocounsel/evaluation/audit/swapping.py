"""Swapped speeches: each prompt gets the speech of a client in another component, preferably of the same topic."""

import numpy as np

from psychocounsel.evaluation.audit.audited_pairs import Pairs


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
    for members in [*(order[topics[order] == each] for each in np.unique(topics)), order]:
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
