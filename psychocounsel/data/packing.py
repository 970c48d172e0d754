"""Which groups share a row and a micro-batch, computed from lengths alone and so identically on every rank."""

import heapq
import math
from collections.abc import Callable, Sequence

Row = list[int]
MicroBatch = list[Row]


def plan_step(lengths: Sequence[int], ranks: int, budget: int, one_row: bool = False) -> list[list[MicroBatch]]:
    """Distribute groups of `lengths` tokens over `ranks` and into micro-batches of at most `budget` tokens.

    With `one_row` a micro-batch is a single row without padding, and all are of nearly equal size, over the ranks too.
    Otherwise it has rows of similar groups, padded to the longest. A group longer than `budget` goes alone.

    Returns, per rank, the same number of micro-batches (unequal counts hang ZeRO-2 and 3); a missing one is an empty list.
    """
    if one_row:
        return _even_rows(lengths, ranks, budget)
    shares = _spread(lengths, ranks)
    plans = [_padded_rows(share, lengths, budget) for share in shares]
    count = max(map(len, plans))
    return [plan + [[] for _ in range(count - len(plan))] for plan in plans]


def _spread(lengths: Sequence[int], bins: int) -> list[list[int]]:
    """Deal the groups into `bins` of about equal sums: each, from the longest down, to the one that has least."""
    members: list[list[int]] = [[] for _ in range(bins)]
    heap = [(0, number) for number in range(bins)]
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        load, number = heapq.heappop(heap)
        members[number].append(index)
        heapq.heappush(heap, (load + lengths[index], number))
    return members


def _even_rows(lengths: Sequence[int], ranks: int, budget: int) -> list[list[MicroBatch]]:
    """As few micro-batches per rank as hold all groups, the ranks' n-th ones about even, and so are their sums.

    Ranks that shard weights wait for each other at every micro-batch, others and lanes at the end of a step.
    """
    rounds = max(1, math.ceil(sum(min(length, budget) for length in lengths) / (ranks * budget)))
    while True:
        bins = _spread(lengths, ranks * rounds)
        loads = [sum(lengths[index] for index in members) for members in bins]
        if all(load <= budget or len(members) == 1 for load, members in zip(loads, bins, strict=True)):
            break
        rounds += 1
    order = sorted(range(len(bins)), key=lambda number: -loads[number])
    dealt = _deal([order[first : first + ranks] for first in range(0, len(order), ranks)], loads)
    return [[[bins[number]] if bins[number] else [] for number in share] for share in dealt]


def _deal(rounds: Sequence[Sequence[int]], loads: Sequence[int]) -> list[list[int]]:
    """One bin of each round for every rank, in the order of rounds, so that the ranks' sums come out even.

    The rounds that differ most are dealt first, each one's largest bin to the rank that has least.
    """
    ranks = range(len(rounds[0]))
    shares = [[0] * len(rounds) for _ in ranks]
    sums = [0 for _ in ranks]
    for number in sorted(range(len(rounds)), key=lambda number: loads[rounds[number][-1]] - loads[rounds[number][0]]):
        for bin_number, rank in zip(rounds[number], sorted(ranks, key=lambda rank: sums[rank]), strict=True):
            shares[rank][number] = bin_number
            sums[rank] += loads[bin_number]
    return shares


def _padded_rows(share: Sequence[int], lengths: Sequence[int], budget: int) -> list[MicroBatch]:
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


def packing_report(steps: Sequence[Sequence[int]], plan: Callable[[Sequence[int]], list[list[MicroBatch]]]) -> str:
    """A line about the lengths of `steps` (of each step's groups, in tokens) and how well `plan` packs them.

    Full are micro-batches of real tokens alone, equally many on all ranks, which wait for each other.
    """
    lengths = sorted(length for step in steps for length in step)
    plans = [plan(step) for step in steps]
    computed = sum(
        len(ranks) * max(_padded_tokens(micro, step) for micro in ranks)
        for step, planned in zip(steps, plans, strict=True)
        for ranks in zip(*planned, strict=True)
    )
    count = sum(len(ranks) for planned in plans for ranks in planned) / len(plans)
    return (
        f"rows of {lengths[0]} to {lengths[-1]} tokens (median {lengths[len(lengths) // 2]}); "
        f"micro-batches a step: {count:.3g}, {sum(lengths) / computed:.1%} full"
    )


def computed_tokens(plan: Sequence[Sequence[MicroBatch]], lengths: Sequence[int], overhead: int) -> int:
    """Return the tokens of the rank with most work in `plan`, padding included, and `overhead` for each of its micro-batches."""
    return max(sum(_padded_tokens(micro, lengths) + overhead for micro in micros) for micros in plan)


def _padded_tokens(micro: MicroBatch, lengths: Sequence[int]) -> int:
    return len(micro) * max((sum(lengths[index] for index in row) for row in micro), default=0)


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
