"""Faults of a data set: repeated texts, contradictory labels, and ratings that all say the same."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from psychocounsel.data.near_duplicates import Sketches, near_matches, near_pairs, sketches
from psychocounsel.data.rows import Example
from psychocounsel.data.shared_text import normalised, reply_key, same_texts
from psychocounsel.evaluation.audit.figures import Disagreement, Halo, PrincipleRatings
from psychocounsel.evaluation.audit.pairs import Pairs, RatedReplies

# Duplicates and near duplicates within a data set, and its overlap with other data sets.


class Texts:
    """Distinct normalised prompts and replies of an audited data set, with their sketches for near-duplicate search."""

    def __init__(self, pairs: Pairs) -> None:
        self.prompts = [normalised(prompt) for prompt in pairs.prompts]
        keys = [reply_key(reply) for reply in pairs.replies]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        self.replies = list(numbers)
        self.number = np.array([numbers[key] for key in keys], np.int64)  # index of each reply of `pairs` in `replies`
        self.prompt_sketches, self.reply_sketches = sketches(self.prompts), sketches(self.replies)


def repeats(pairs: Pairs, texts: Texts, threshold: float) -> dict[str, int]:
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
        [(first, second) for first, second, _ in near_pairs(sketched, threshold)]
        for sketched in (texts.prompt_sketches, texts.reply_sketches)
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


def shared(pairs: Pairs, texts: Texts, others: Sequence[Example], threshold: float) -> dict[str, int]:
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


def _members(pairs: Any) -> set[int]:
    return {number for pair in pairs for number in pair}


def _first(texts: np.ndarray, component: np.ndarray, count: int) -> np.ndarray:
    """Return the component of each text, int64[count]: the same for all its pairs, because they share the text."""
    result = np.full(count, -1, np.int64)
    result[texts] = component
    return result


# Contradictions within a data set: pairs labelled both ways round, and replies with several different ratings.


def contradictions(pairs: Pairs) -> dict[str, int]:
    """Return how many pairs occur more than once (`repeated`), and how many of these with both labels (`contradicted`)."""
    seen: dict[tuple[int, int, int], list[bool]] = defaultdict(list)
    number = same_texts(pairs.replies)
    sides = (pairs.prompt, number[pairs.chosen], number[pairs.rejected])
    for prompt, chosen, rejected in zip(*(side.tolist() for side in sides), strict=True):
        seen[prompt, min(chosen, rejected), max(chosen, rejected)].append(chosen < rejected)
    repeated = [orders for orders in seen.values() if len(orders) > 1]
    return {"repeated": len(repeated), "contradicted": sum(len(set(orders)) > 1 for orders in repeated)}


def rating_disagreement(rated: RatedReplies) -> Disagreement | None:
    """Return the number of replies with different ratings (`replies`), and their mean standard deviation (`deviation`).

    `of` is the number of all rated replies. The result is None if every reply has one set of ratings, because agreement
    between raters is then unknown.
    """
    several: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(rated.prompt, rated.reply, strict=True)):
        several[key].append(row)
    spread = [rated.ratings[rows].std(0, ddof=1).mean() for rows in several.values() if len(rows) > 1]
    return {"replies": len(spread), "of": len(several), "deviation": float(np.mean(spread))} if spread else None


# Halo and ceiling of ratings: how strongly the principles correlate, and how often a rating is the highest possible.


def halo(ratings: np.ndarray, names: Sequence[str], top: float) -> Halo:
    """Return the halo figures of `ratings`, float[replies, principles]; `top` is the highest possible rating.

    `alpha` is Cronbach's alpha (1951). `first_component` is the share of variance of the first principal component of the
    correlation matrix. Each principle has its mean, its standard deviation, the share of ratings at `top`, and its
    correlation with the sum of the others. A figure that would divide by zero variance is None, and `first_component`
    and `mean_correlation` exclude principles without variance.
    """
    varying = np.flatnonzero(ratings.std(0) > 0) if len(ratings) > 1 else np.array([], int)
    matrix = np.corrcoef(ratings[:, varying].T) if len(varying) > 1 else None
    correlations = np.full((len(names), len(names)), np.nan)
    if matrix is not None:
        correlations[np.ix_(varying, varying)] = matrix
    total = ratings.sum(1)
    principles: dict[str, PrincipleRatings] = {
        name: {
            "mean": float(ratings[:, column].mean()),
            "deviation": float(ratings[:, column].std()),
            "at_top": float((ratings[:, column] >= top).mean()),
            "with_others": _correlation(ratings[:, column], total - ratings[:, column]),
        }
        for column, name in enumerate(names)
    }
    return {
        "replies": len(ratings),
        "alpha": cronbach(ratings),
        "first_component": None if matrix is None else float(np.linalg.eigvalsh(matrix)[-1] / len(varying)),
        "mean_correlation": None if matrix is None else float(matrix[np.triu_indices(len(varying), 1)].mean()),
        "correlations": [[None if np.isnan(value) else float(value) for value in row] for row in correlations],
        "principles": principles,
    }


def cronbach(ratings: np.ndarray) -> float | None:
    """Return Cronbach's alpha, k / (k - 1) x (1 - sum of the k columns' variances / variance of their sum).

    The result is None if the sum does not vary.
    """
    whole = ratings.sum(1).var(ddof=1) if len(ratings) > 1 else 0.0
    count = ratings.shape[1]
    return float(count / (count - 1) * (1 - ratings.var(0, ddof=1).sum() / whole)) if whole > 0 else None


def _correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    if len(first) < 2 or not (first.std() > 0 and second.std() > 0):
        return None
    return float(np.corrcoef(first, second)[0, 1])
