"""Which groups share a row and a micro-batch, computed from lengths alone and so identically on every rank."""

from collections.abc import Sequence

Row = list[int]
MicroBatch = list[Row]


def plan_step(lengths: Sequence[int], ranks: int, budget: int) -> list[list[MicroBatch]]:
    """Distribute groups of `lengths` tokens over `ranks`, then into micro-batches of at most `budget` padded tokens.

    Returns, per rank, the same number of micro-batches (unequal counts hang ZeRO-2 and 3); a missing one is an empty
    list. Rows of a micro-batch are padded to its longest. A group longer than `budget` gets a micro-batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for index in order:
        lightest = min(range(ranks), key=lambda rank: (loads[rank], rank))
        shares[lightest].append(index)
        loads[lightest] += lengths[index]
    plans = [_micro_batches(share, lengths, budget) for share in shares]
    count = max(map(len, plans))
    return [plan + [[] for _ in range(count - len(plan))] for plan in plans]


def _micro_batches(share: Sequence[int], lengths: Sequence[int], budget: int) -> list[MicroBatch]:
    """Fill micro-batches from the longest group down, so that rows of similar length come together."""
    batches: list[MicroBatch] = []
    room: list[int] = []  # free tokens per row of the last micro-batch
    for index in share:
        length = lengths[index]
        width = lengths[batches[-1][0][0]] if batches else 0
        fitting = [row for row, free in enumerate(room) if free >= length]
        if fitting:
            best = min(fitting, key=lambda row: room[row])
            batches[-1][best].append(index)
            room[best] -= length
        elif batches and width * (len(room) + 1) <= budget:
            batches[-1].append([index])
            room.append(width - length)
        else:
            batches.append([[index]])
            room = [0]
    return batches


def global_counts(groups: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """Units of a global batch, from each group's completion lengths; what loss terms are divided by."""
    pairs = [lengths for lengths in groups if len(lengths) >= 2]
    return {
        "groups": len(groups),
        "pairs": len(pairs),
        "completions": sum(map(len, groups)),
        "tokens": sum(map(sum, groups)),
        "chosen_tokens": sum(lengths[0] for lengths in groups if lengths),
    }
