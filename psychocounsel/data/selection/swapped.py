"""`data.swapped`: pairs whose rejected reply was chosen for another client, so that only the prompt reveals the better one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from psychocounsel.data.rows import Example
from psychocounsel.data.selection.shared_text import components_of, normalised
from psychocounsel.data.selection.shuffle import rank
from psychocounsel.errors import UserError


def with_swapped(pairs: Sequence[Example], share: float, seed: int, report: Callable[[str], None]) -> list[Example]:
    """Return `pairs` followed by swapped pairs: `share` new pairs for each given pair, at least one in total.

    The chosen reply of a new pair was chosen for its own client; the rejected reply was chosen for another client. The
    other client belongs to another component of shared text, and to the same topic if the data name topics.

    Each chosen reply gets one new pair before any gets a second, in an order that `seed` fixes, and never the same
    opponent twice. New pairs have no ratings and no scores, because nobody rated the other client's reply here. With
    soft labels, their probability is 1.

    Raises:
        UserError: if rows are not pairs, or there are too few clients for this many pairs.
    """
    for pair in pairs:
        if len(pair.replies) < 2:
            raise UserError(f"{pair.where}: has only one reply, but data.swapped={share:g} needs pairs")
    wanted = max(round(share * len(pairs)), 1)
    made = list(islice(_candidates(pairs, seed), wanted))
    if len(made) < wanted:
        raise UserError(
            f"data.swapped={share:g}: needs {wanted} pairs, but the replies chosen for other clients of the same topic give only "
            f"{len(made)}: lower it, or add rows"
        )
    report(
        f"data.swapped: {len(made)} training pairs added, each of a chosen reply and a reply that was chosen for another client"
    )
    return [*pairs, *made]


def _candidates(pairs: Sequence[Example], seed: int) -> Iterator[Example]:
    """Yield all possible swapped pairs in the order in which they are taken."""
    component = components_of(pairs)
    firsts = {(normalised(pair.prompt), pair.replies[0]): index for index, pair in reversed(list(enumerate(pairs)))}
    ranks = {index: rank(f"{prompt} {reply}", seed, "swapped") for (prompt, reply), index in firsts.items()}
    rows = sorted(ranks, key=lambda index: ranks[index])
    topics: dict[str | None, list[int]] = {}
    for row in rows:
        topics.setdefault(pairs[row].topic, []).append(row)
    place = {row: number for members in topics.values() for number, row in enumerate(members)}
    for step in range(1, max(map(len, topics.values()), default=0)):
        for row in rows:
            members = topics[pairs[row].topic]
            if step < len(members):
                other = members[(place[row] + step) % len(members)]
                if component[other] != component[row] and pairs[other].replies[0] != pairs[row].replies[0]:
                    yield _pair(pairs[row], pairs[other])


def _pair(own: Example, other: Example) -> Example:
    writers = [own.writers[0], other.writers[0]] if own.writers and other.writers else None
    replies = [own.replies[0], other.replies[0]]
    identity = f"{own.id}-swapped-{other.id}"
    probability = None if own.probability is None else 1.0
    return replace(
        own,
        id=identity,
        replies=replies,
        ratings=None,
        scores=None,
        writers=writers,
        order=None,
        probability=probability,
    )
