"""Order of computing missing reference log-probabilities; processes that need the same values share the work."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from psychocounsel.data.group import Completion, Group
from psychocounsel.engine.references.store import Array, ReferenceStore, bucket_of

FLUSH_SECONDS = 10.0  # the most work that a killed process loses
# Wait before a lock that a live process held is checked again, because on NFS each check writes a file.
RETRY_SECONDS = 5.0

Order = list[tuple[int, list[int]]]  # unit numbers, each with positions of its completions


@dataclass
class Unit:
    """Distinct completions of one prompt, which share a forward pass."""

    prompt_ids: Array
    replies: list[Array]
    keys: list[bytes]
    bucket: int

    def group(self, positions: Sequence[int]) -> Group:
        return Group("", self.prompt_ids, [Completion(self.replies[position]) for position in positions])


def make_units(groups: Sequence[Group], keys: Sequence[Sequence[bytes]], budget: int) -> list[Unit]:
    """Return all distinct completions of `groups` as units, sorted by bucket.

    A unit of several completions has at most `budget` tokens. `keys` are the row keys of the completions.
    """
    prompts: dict[bytes, tuple[Array, dict[bytes, Array]]] = {}
    for group, names in zip(groups, keys, strict=True):
        _, replies = prompts.setdefault(group.prompt_ids.tobytes(), (group.prompt_ids, {}))
        replies |= {key: reply.ids for key, reply in zip(names, group.completions, strict=True)}
    units: list[Unit] = []
    for prompt_ids, replies in prompts.values():
        room = 0
        for key, ids in replies.items():
            if len(ids) > room or not room:
                units.append(Unit(prompt_ids, [], [], bucket_of(prompt_ids)))
                room = budget - len(prompt_ids)
            units[-1].replies.append(ids)
            units[-1].keys.append(key)
            room = max(0, room - len(ids))
    return sorted(units, key=lambda unit: unit.bucket)


class Filling:
    """Hands out the rows of `units` that neither the store nor `add` has provided yet.

    The order is fixed, so that a killed and restarted process computes the same batches as an uninterrupted one.
    """

    def __init__(self, store: ReferenceStore, units: Sequence[Unit]) -> None:
        self.store, self.units = store, units
        self.known: dict[bytes, Array] = {}
        self.computed = 0
        self._seen: set[str] = set()  # names of files already read
        self._buckets = {key: unit.bucket for unit in units for key in unit.keys}
        self._missing: dict[int, list[int]] = {}  # unit numbers by bucket
        for number, unit in enumerate(units):
            self._missing.setdefault(unit.bucket, []).append(number)
        self._held: set[int] = set()
        self._tried: dict[int, float] = {}
        self._fresh: dict[bytes, Array] = {}  # computed but not yet on disk
        self._fresh_buckets: set[int] = set()
        self._flushed = time.monotonic()
        self._refresh()

    def next(self, size: int) -> Order | None:
        """Return at most `size` units to compute now; [] while other processes compute the rest; None when all are known."""
        ready = self._claim(size)
        if not ready or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()
        if ready:
            return [(number, self._unknown(number)) for number in ready]
        return [] if self._missing else None

    def add(self, order: Order, values: Sequence[Sequence[Array]]) -> None:
        """Record the computed rows of `order`, float32[len] each. Rows with non-finite values are not shared with others."""
        for (number, positions), rows in zip(order, values, strict=True):
            unit = self.units[number]
            for position, row in zip(positions, rows, strict=True):
                self.known[unit.keys[position]] = row
                self.computed += 1
                if np.isfinite(row).all():
                    self._fresh[unit.keys[position]] = row
                    self._fresh_buckets.add(unit.bucket)
        self._drop_known({self.units[number].bucket for number, _ in order})

    def close(self) -> None:
        """Save the computed rows, and release the locks so that others can compute the rest."""
        self._flush()
        self._release(set(self._held))

    def _claim(self, size: int) -> list[int]:
        locked = self.store.locked()
        for bucket in [*self._missing]:
            if len(self._ready()) >= size:
                break
            recently = time.monotonic() - self._tried.get(bucket, -RETRY_SECONDS) < RETRY_SECONDS
            if bucket not in self._missing or bucket in self._held or (bucket in locked and recently):
                continue  # already known, already ours, or locked by another process
            if self.store.lock(bucket):
                self._held.add(bucket)
                self._refresh()  # the last holder of the lock may have computed the rows
            self._tried[bucket] = time.monotonic()
        if not self._ready():
            self._refresh()
        return self._ready()[:size]

    def _ready(self) -> list[int]:
        return [number for bucket, numbers in self._missing.items() if bucket in self._held for number in numbers]

    def _unknown(self, number: int) -> list[int]:
        return [position for position, key in enumerate(self.units[number].keys) if key not in self.known]

    def _refresh(self) -> None:
        changed = set()
        for key, row in self.store.read_new(self._missing, self._seen):
            if key in self._buckets and key not in self.known:
                self.known[key] = row.copy()  # a view would keep the whole file in memory
                changed.add(self._buckets[key])
        self._drop_known(changed)

    def _drop_known(self, buckets: set[int]) -> None:
        for bucket in buckets & self._missing.keys():
            self._missing[bucket] = [number for number in self._missing[bucket] if self._unknown(number)]
            if not self._missing[bucket]:
                del self._missing[bucket]
        self._release(self._held - self._missing.keys() - self._fresh_buckets)

    def _flush(self) -> None:
        if self._fresh:
            self.store.add(self._fresh, self._fresh_buckets)
            self._fresh, self._fresh_buckets = {}, set()
        self._release(self._held - self._missing.keys())
        self._flushed = time.monotonic()

    def _release(self, buckets: set[int]) -> None:
        for bucket in buckets:
            self.store.release(bucket)
        self._held -= buckets
