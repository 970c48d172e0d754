"""Where a data set contradicts itself: the same two replies judged both ways, a reply with several ratings."""

from collections import defaultdict
from typing import Any

import numpy as np

from psychocounsel.data.selection.shared_text import same_texts
from psychocounsel.evaluation.audit.audited_pairs import Pairs, RatedReplies


def contradictions(pairs: Pairs) -> dict[str, int]:
    """`repeated`: pairs of replies to one prompt that stand there more than once; `contradicted`: of these, in both orders."""
    seen: dict[tuple[int, int, int], list[bool]] = defaultdict(list)
    number = same_texts(pairs.replies)
    sides = (pairs.prompt, number[pairs.chosen], number[pairs.rejected])
    for prompt, chosen, rejected in zip(*(side.tolist() for side in sides), strict=True):
        seen[prompt, min(chosen, rejected), max(chosen, rejected)].append(chosen < rejected)
    repeated = [orders for orders in seen.values() if len(orders) > 1]
    return {"repeated": len(repeated), "contradicted": sum(len(set(orders)) > 1 for orders in repeated)}


def rating_disagreement(rated: RatedReplies) -> dict[str, Any] | None:
    """Of replies that rows rate differently: their number, and the mean standard deviation of their ratings.

    None where every reply has one set of ratings, so that nothing tells how far annotators agree.
    """
    several: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(rated.prompt, rated.reply, strict=True)):
        several[key].append(row)
    spread = [rated.ratings[rows].std(0, ddof=1).mean() for rows in several.values() if len(rows) > 1]
    return {"replies": len(spread), "of": len(several), "deviation": float(np.mean(spread))} if spread else None
