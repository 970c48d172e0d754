"""Contradictions within a data set: pairs labelled both ways round, and replies with several different ratings."""

from collections import defaultdict
from typing import Any

import numpy as np

from psychocounsel.data.selection.shared_text import same_texts
from psychocounsel.evaluation.audit.audited_pairs import Pairs, RatedReplies


def contradictions(pairs: Pairs) -> dict[str, int]:
    """Return how many pairs occur more than once (`repeated`), and how many of these with both labels (`contradicted`)."""
    seen: dict[tuple[int, int, int], list[bool]] = defaultdict(list)
    number = same_texts(pairs.replies)
    sides = (pairs.prompt, number[pairs.chosen], number[pairs.rejected])
    for prompt, chosen, rejected in zip(*(side.tolist() for side in sides), strict=True):
        seen[prompt, min(chosen, rejected), max(chosen, rejected)].append(chosen < rejected)
    repeated = [orders for orders in seen.values() if len(orders) > 1]
    return {"repeated": len(repeated), "contradicted": sum(len(set(orders)) > 1 for orders in repeated)}


def rating_disagreement(rated: RatedReplies) -> dict[str, Any] | None:
    """Return the number of replies with different ratings (`replies`), and their mean standard deviation (`deviation`).

    `of` is the number of all rated replies. The result is None if every reply has one set of ratings, because agreement
    between raters is then unknown.
    """
    several: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(rated.prompt, rated.reply, strict=True)):
        several[key].append(row)
    spread = [rated.ratings[rows].std(0, ddof=1).mean() for rows in several.values() if len(rows) > 1]
    return {"replies": len(spread), "of": len(several), "deviation": float(np.mean(spread))} if spread else None
