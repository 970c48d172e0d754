"""Duplicates and near duplicates within a data set, and its overlap with other data sets."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from psychocounsel.data.rows import Example
from psychocounsel.data.selection.near import Sketches, near_matches, near_pairs, sketches
from psychocounsel.data.selection.shared_text import normalised, reply_key
from psychocounsel.evaluation.audit.audited_pairs import Pairs


class Texts:
    """Distinct normalised prompts and replies of an audited data set, with their sketches for near-duplicate search."""

    def __init__(self, pairs: Pairs) -> None:
        self.prompts = [normalised(prompt) for prompt in pairs.prompts]
        keys = [reply_key(reply) for reply in pairs.replies]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        self.replies = list(numbers)
        self.number = np.array([numbers[key] for key in keys], np.int64)  # index of each reply of `pairs` in `replies`
        self.prompt_sketches, self.reply_sketches = sketches(self.prompts), sketches(self.replies)


def repeats(pairs: Pairs, texts: Texts, threshold: float) -> dict[str, Any]:
    """Count repeated pairs, replies under several prompts, and near duplicates.

    Two texts are near duplicates if the Jaccard index of their word 3-grams is `threshold` or more. `reused_replies`
    occur under several prompts; `pairs_with_reused` contain such a reply. `near_prompts` and `near_replies` have a near
    duplicate, and `near_pairs` are pairs whose two replies are near duplicates of each other. `near_prompts_apart` and
    `near_replies_apart` have a near duplicate in another component, so folds do not keep the two apart.
    """
    sides = np.stack([texts.number[pairs.chosen], texts.number[pairs.rejected]], 1)
    used = np.unique(np.column_stack([np.tile(pairs.prompt, 2), sides.T.ravel()]), axis=0)
    reused = np.flatnonzero(np.bincount(used[:, 1], minlength=len(texts.replies)) > 1)
    prompts, replies = (
        [(first, second) for first, second, _ in near_pairs(each, threshold)]
        for each in (texts.prompt_sketches, texts.reply_sketches)
    )
    of_prompt = _first(pairs.prompt, pairs.component, len(texts.prompts))
    of_reply = _first(sides.ravel(), np.repeat(pairs.component, 2), len(texts.replies))
    both = {tuple(sorted(pair)) for pair in sides.tolist()} & set(replies)
    rows = np.unique(np.column_stack([pairs.prompt, sides]), axis=0)
    apart = _members(pair for pair in prompts if of_prompt[pair[0]] != of_prompt[pair[1]])
    return {
        "repeated_pairs": len(pairs) - len(rows),
        "reused_replies": len(reused),
        "pairs_with_reused": int(np.isin(sides, reused).any(1).sum()),
        "near_prompts": len(_members(prompts)),
        "near_replies": len(_members(replies)),
        "near_pairs": sum(tuple(sorted(pair)) in both for pair in sides.tolist()),
        "near_prompts_apart": len(apart),
        "near_replies_apart": len(_members(pair for pair in replies if of_reply[pair[0]] != of_reply[pair[1]])),
    }


def shared(pairs: Pairs, texts: Texts, others: Sequence[Example], threshold: float) -> dict[str, Any]:
    """Count prompts and replies that another data set also holds: equal after normalisation, or near duplicates.

    `pairs` counts the pairs that contain such a prompt or reply, whether equal or near.
    """
    their_prompts = list(dict.fromkeys(normalised(example.prompt) for example in others))
    their_replies = list(dict.fromkeys(reply_key(reply) for example in others for reply in example.replies))
    prompts = _shared(texts.prompts, texts.prompt_sketches, their_prompts, threshold)
    replies = _shared(texts.replies, texts.reply_sketches, their_replies, threshold)
    sides = np.stack([texts.number[pairs.chosen], texts.number[pairs.rejected]], 1)
    touched = np.isin(pairs.prompt, list(prompts[0] | prompts[1])) | np.isin(sides, list(replies[0] | replies[1])).any(
        1
    )
    return {
        "rows": len(others),
        "prompts": len(prompts[0]),
        "near_prompts": len(prompts[1] - prompts[0]),
        "replies": len(replies[0]),
        "near_replies": len(replies[1] - replies[0]),
        "pairs": int(touched.sum()),
    }


def _shared(ours: list[str], sketched: Sketches, theirs: list[str], threshold: float) -> tuple[set[int], set[int]]:
    """Return the indices of our texts that equal one of theirs, and of our texts that are near duplicates of one."""
    known = set(theirs)
    return {number for number, text in enumerate(ours) if text in known}, near_matches(
        sketched, sketches(theirs), threshold
    )


def _members(found: Any) -> set[int]:
    return {number for pair in found for number in pair}


def _first(texts: np.ndarray, component: np.ndarray, count: int) -> np.ndarray:
    """Return the component of each text, int64[count]: the same for all its pairs, because they share the text."""
    result = np.full(count, -1, np.int64)
    result[texts] = component
    return result
