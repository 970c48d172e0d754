"""Packing of groups into rows and micro-batches; it depends on lengths alone, so every rank computes the same plan."""

import heapq
import math
from collections.abc import Callable, Sequence

Row = list[int]
MicroBatch = list[Row]


def plan_step(lengths: Sequence[int], ranks: int, budget: int, one_row: bool = False) -> list[list[MicroBatch]]:
    """Distribute groups of `lengths` tokens over `ranks` and into micro-batches of at most `budget` tokens.

    With `one_row` a micro-batch is a single row without padding, and all micro-batches of all ranks have nearly equal
    size. Otherwise a micro-batch has rows of similar length, padded to the longest row. A group longer than `budget`
    forms its own micro-batch.

    Returns, for each rank, the same number of micro-batches, because unequal numbers would hang ZeRO-2 and ZeRO-3. An
    empty list fills a missing micro-batch.
    """
    if one_row:
        return _even_rows(lengths, ranks, budget)
    shares = _spread(lengths, ranks)
    plans = [_padded_rows(share, lengths, budget) for share in shares]
    count = max(map(len, plans))
    return [plan + [[] for _ in range(count - len(plan))] for plan in plans]


def _spread(lengths: Sequence[int], bins: int) -> list[list[int]]:
    """Distribute the groups over `bins` of about equal sums: the longest first, each to the bin with the least tokens."""
    members: list[list[int]] = [[] for _ in range(bins)]
    heap = [(0, number) for number in range(bins)]
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        load, number = heapq.heappop(heap)
        members[number].append(index)
        heapq.heappush(heap, (load + lengths[index], number))
    return members


def _even_rows(lengths: Sequence[int], ranks: int, budget: int) -> list[list[MicroBatch]]:
    """Return as few micro-batches per rank as hold all groups, with even loads.

    The n-th micro-batches of all ranks are about equal, because ranks that shard weights wait for each other at every
    micro-batch. The sums of the ranks are about equal, because all ranks wait for each other at the end of a step.
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
    """Give each rank one bin of every round, in the order of rounds, so that the ranks' sums are about equal.

    The rounds with the largest differences are dealt first. The largest bin of a round goes to the rank with the least
    tokens.
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
    """Fill micro-batches from the longest group down, so that rows of similar length share a micro-batch."""
    batches: list[MicroBatch] = []
    room: list[int] = []  # free tokens in each row of the last micro-batch
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
    """Return a line about the groups' lengths and the share of real tokens in the micro-batches that `plan` makes.

    `steps` holds the lengths [tokens] of the groups of each step. The n-th micro-batch of each rank counts with the
    size of the largest n-th micro-batch of all ranks, because ranks wait for each other.
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
    """Return the tokens of the busiest rank in `plan`, including padding and `overhead` tokens for each micro-batch."""
    return max(sum(_padded_tokens(micro, lengths) + overhead for micro in micros) for micros in plan)


def _padded_tokens(micro: MicroBatch, lengths: Sequence[int]) -> int:
    return len(micro) * max((sum(lengths[index] for index in row) for row in micro), default=0)


def global_counts(groups: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """Return the number of each unit in a global batch, by which loss terms are divided.

    `groups` holds the number of trained tokens of each completion of each group.
    """
    pairs = [lengths for lengths in groups if len(lengths) >= 2]
    return {
        "groups": len(groups),
        "pairs": len(pairs),
        "completions": sum(map(len, groups)),
        "tokens": sum(map(sum, groups)),
        "chosen_tokens": sum(lengths[0] for lengths in groups if lengths),
    }
