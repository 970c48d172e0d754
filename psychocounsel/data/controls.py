"""Controls as rejected replies in training pairs (`data.controls`)."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from psychocounsel.counsel.controls import ControlSource, control_of
from psychocounsel.data.messages import client_text
from psychocounsel.data.reply_files import replies_of
from psychocounsel.data.rows import Example
from psychocounsel.data.selection import refuse_sessions
from psychocounsel.data.settings import OWN
from psychocounsel.data.shared_text import components_of, normalised
from psychocounsel.errors import UserError
from psychocounsel.storage.files import with_noun

RATE = 0.15  # controls per pair, if `data.control_rate` is null; docs/judges.md compares it with 0.5
_WORDS_OF = 500  # examples whose words `random` draws from


class Clients:
    """Source of the material of n clients; `good` holds an example for each, whose first reply is a good one."""

    def __init__(self, good: Sequence[Example], system_prompt: str) -> None:
        self.good, self.system_prompt = good, system_prompt
        self.component = components_of(good)
        self.words = [word for example in good[:_WORDS_OF] for word in example.replies[0].split()]
        topics: dict[str | None, list[int]] = {}
        for number, example in enumerate(good):
            topics.setdefault(example.topic, []).append(number)
        # Only groups of clients that do not all share texts, so that the search for another client ends soon.
        self.by_topic = {topic: members for topic, members in topics.items() if self._differ(members)}
        self.everyone: Sequence[int] = range(len(good)) if self._differ(range(len(good))) else ()

    def material(self, number: int, rng: random.Random) -> ControlSource:
        """Return the material of one client.

        `other` is the first reply of a random example of the same topic that shares no text with this one; of any topic,
        if the topic has no such example.
        """
        example = self.good[number]
        other = self._other(number, self.by_topic.get(example.topic, self.everyone), rng)
        return ControlSource(client_text(example.prompt), example.replies[0], other, self.system_prompt, self.words)

    def _other(self, number: int, members: Sequence[int], rng: random.Random) -> str | None:
        start = rng.randrange(max(len(members), 1))
        for step in range(len(members)):
            member = members[(start + step) % len(members)]
            if self.component[member] != self.component[number]:
                return self.good[member].replies[0]
        return None

    def _differ(self, members: Sequence[int]) -> bool:
        return len({int(self.component[member]) for member in members}) > 1


def rate_of(data: DictConfig) -> float:
    return RATE if data.control_rate is None else float(data.control_rate)


def with_controls(
    pairs: Sequence[Example],
    data: DictConfig,
    system_prompt: str,
    seed: int,
    epochs: int,
    report: Callable[[str], None],
) -> list[Example]:
    """Return `pairs` followed by the control pairs of each epoch: the chosen reply of a pair against a control.

    An epoch has `data.control_rate` times as many control pairs as pairs, equally many of each kind in `data.controls`.
    `seed` and the epoch decide which pairs get a control, and all random words. Control pairs have no ratings; with soft
    labels, their probability is 1.

    Raises:
        UserError: if rows are not pairs, or a kind of control cannot be made from them.
    """
    for pair in pairs:
        if len(pair.replies) < 2:
            raise UserError(f"{pair.where}: has only one reply, but data.controls needs pairs")
    refuse_sessions(pairs, "data.controls")
    count = max(round(rate_of(data) * len(pairs)), 1)
    clients, own = Clients(pairs, system_prompt), dict[int, list[str]]()
    if OWN in data.controls:
        replies = replies_of(Path(data.own_replies), "data.own_replies")
        own = {number: replies.get(normalised(pair.prompt), []) for number, pair in enumerate(pairs)}
    added = [
        pair
        for epoch in range(epochs)
        for index, kind in enumerate(data.controls)
        for pair in _of_kind(kind, clients, own, len(range(index, count, len(data.controls))), seed, epoch)
    ]
    kinds = ", ".join(data.controls)
    report(
        f"data.controls: {with_noun(count, 'training pair')} added to each epoch, with {kinds} as the rejected reply"
    )
    return [*pairs, *added]


def _of_kind(
    kind: str, clients: Clients, own: Mapping[int, Sequence[str]], count: int, seed: int, epoch: int
) -> Iterator[Example]:
    """Yield `count` control pairs of one kind, of different pairs as long as there are any."""
    rng = random.Random(f"{kind} {seed} {epoch}")
    order = rng.sample(range(len(clients.good)), len(clients.good))
    made = tried = 0
    while made < count:
        number = order[tried % len(order)]
        tried += 1
        if (text := _text(kind, number, clients, own, rng)) is not None:
            yield _control_pair(clients.good[number], text, kind, epoch, made)
            made += 1
        elif tried >= len(order) and not made:
            raise UserError(_without(kind))


def _text(kind: str, number: int, clients: Clients, own: Mapping[int, Sequence[str]], rng: random.Random) -> str | None:
    if kind != OWN:
        return control_of(kind, clients.material(number, rng), rng)
    replies = [reply.strip() for reply in own[number] if reply.strip() not in ("", *clients.good[number].replies)]
    return rng.choice(replies) if replies else None


def _without(kind: str) -> str:
    if kind == OWN:
        return "data.own_replies: has no reply to any training prompt; let the model reply to the training part of this data"
    return f"data.controls: {kind} cannot be made from these rows, because all clients share replies; leave it out"


_MARK = " control "  # in the id of a control pair, before its kind, epoch and number


def _control_pair(pair: Example, control: str, kind: str, epoch: int, number: int) -> Example:
    return replace(
        pair,
        id=f"{pair.id}{_MARK}{kind} {epoch} {number}",
        replies=[pair.replies[0], control],
        ratings=None,
        some_ratings=None,
        scores=None,
        writers=None,
        order=None,
        probability=None if pair.probability is None else 1.0,
    )


def epoch_of(identity: str) -> int | None:
    """Return the epoch of a control pair from its id; None for another pair."""
    _, mark, name = identity.rpartition(_MARK)
    return int(name.split()[1]) if mark else None
