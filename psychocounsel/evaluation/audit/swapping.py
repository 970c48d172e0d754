"""Another client's speech for each prompt: of another component, and of the same topic where there is one."""

import numpy as np

from psychocounsel.evaluation.audit.audited_pairs import Pairs


def other_prompts(pairs: Pairs, topic: np.ndarray, seed: int) -> np.ndarray:
    """The prompt to put in the place of each prompt, int64[prompts]. `topic`: int64[n], of each pair.

    Prompts of a topic are shuffled and each takes the next one of another component, so that hardly any speech is used
    twice.

    Raises:
        ValueError: if all pairs are of one component.
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
    """The first prompt after `place`, in a circle, of another component; -1 if there is none."""
    own = component[members[place]]
    for step in range(1, len(members)):
        other = members[(place + step) % len(members)]
        if component[other] != own:
            return int(other)
    return -1
