"""Reference log-probabilities on disk, shared by all processes and jobs with the same reference.

Each reference has one folder, named by the hash of everything that the values depend on except the tokens. Each
completion has one row, keyed by the tokens of the completion and of its prompt. Rows are divided into BUCKETS buckets
by prompt, and the process that computes rows of a bucket holds its lock. Files are added whole and never changed. Locks
are files in the same folder, because creating one makes NFS list the folder afresh.
"""

import contextlib
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psychocounsel.data.group import Completion, Group
from psychocounsel.storage.blob import Damaged, Foreign, read_blob, write_blob
from psychocounsel.storage.cache_entries import Entry, about_of
from psychocounsel.storage.files import DamagedFile, read_json, write_json
from psychocounsel.storage.locks import Lock
from psychocounsel.storage.modes import file_mode, make_shared
from psychocounsel.storage.trust import Untrusted

BUCKETS = 64
_ABOUT = "about.json"
_SUFFIX = ".logprobs"
_FOLDER = re.compile(r"[0-9a-f]{32}")
_SHARD = re.compile(r"([0-9a-f]{16})-[0-9a-f]{32}\.logprobs")  # a bit mask of its buckets, and a unique name
_LOCK = re.compile(r"bucket-(\d\d)\.lock")

Array = np.ndarray


def row_key(prompt_ids: Array, ids: Array, trained: Array | None = None) -> bytes:
    """Return the key of a completion of a prompt [32 bytes]; the prompt's length in it marks where the prompt ends."""
    tokens = len(prompt_ids).to_bytes(4, "little") + prompt_ids.tobytes() + ids.tobytes()
    return hashlib.sha256(tokens if trained is None else tokens + b"trained" + trained.tobytes()).digest()


def bucket_of(prompt_ids: Array) -> int:
    """Return the bucket of a prompt; completions of one prompt share it, so that they can share a forward pass."""
    return hashlib.sha256(prompt_ids.tobytes()).digest()[0] % BUCKETS


def _home(cache: str | Path) -> Path:
    return Path(cache) / "reference"


class ReferenceStore:
    """The files of one reference under the folder `cache`; `of` is its name for people.

    `identity` (JSON values) is everything that the values depend on except the tokens. If the cache cannot be written,
    one message is printed and the run continues without it.
    """

    def __init__(self, cache: str, identity: dict[str, Any], of: str, say: Callable[[str], None]) -> None:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self.folder = _home(cache) / digest[:32]
        self._about, self._say = {"of": of, "identity": identity}, say
        self._told: set[Path] = set()
        self._locks: dict[int, Lock] = {}
        self._writable = True
        with contextlib.suppress(OSError):
            os.utime(self.folder / _ABOUT)  # records the last use

    def read_new(self, buckets: Iterable[int], seen: set[str]) -> Iterator[tuple[bytes, Array]]:
        """Yield key and float32[len] of each row in the files that are not in `seen` and may have rows of `buckets`.

        The names of these files are added to `seen`.
        """
        wanted = _mask(buckets)
        for name in sorted(self._names() - seen):
            match = _SHARD.fullmatch(name)
            if name.endswith(_SUFFIX) and (match is None or int(match[1], 16) & wanted):
                seen.add(name)
                yield from self._read(self.folder / name)

    def add(self, rows: Mapping[bytes, Array], buckets: Iterable[int]) -> None:
        """Store rows of `buckets` on disk."""
        values = [*rows.values()]
        arrays = {
            "keys": np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 32),
            "ends": np.cumsum([len(row) for row in values], dtype=np.int64),
            "values": np.concatenate(values).astype(np.float32, copy=False),
        }
        path = self.folder / f"{_mask(buckets):016x}-{uuid.uuid4().hex}{_SUFFIX}"
        self._write(lambda: write_blob(path, {"reference": self.folder.name, "rows": len(rows)}, arrays))

    def locked(self) -> set[int]:
        """Return the buckets that have a lock file, even if the process that created it has died."""
        return {int(match[1]) for match in map(_LOCK.fullmatch, self._names()) if match}

    def lock(self, bucket: int) -> bool:
        """Lock a bucket; return False if another live process holds it.

        If the cache cannot be written, return True without a lock.
        """
        lock = Lock(self.folder / f"bucket-{bucket:02d}.lock")
        taken = self._write(lock.take)
        if taken:
            self._locks[bucket] = lock
        return taken is not False

    def release(self, bucket: int) -> None:
        if lock := self._locks.pop(bucket, None):
            with contextlib.suppress(OSError):
                lock.release()

    def _names(self) -> set[str]:
        try:
            return {entry.name for entry in os.scandir(self.folder)}
        except OSError:
            return set()

    def _read(self, path: Path) -> Iterator[tuple[bytes, Array]]:
        try:
            about, arrays = read_blob(path)
            if about.get("reference") != self.folder.name:
                raise Foreign
        except Foreign:
            if path not in self._told:
                self._say(f"{path}: does not belong to this cache; ignored")
            self._told.add(path)
        except Damaged:
            self._say(f"{path}: is damaged; removed, its rows will be recomputed")
            with contextlib.suppress(OSError):
                path.unlink()
        except FileNotFoundError:
            pass  # deleted by `cache prune` after its name was listed
        except PermissionError as error:  # another user's private data need no word
            if isinstance(error, Untrusted) and path not in self._told:
                self._say(f"{path}: is not used ({error.strerror})")
            self._told.add(path)
        except OSError as error:
            self._say(f"{path}: cannot be read ({error.strerror})")
        else:
            rows = np.split(arrays["values"], arrays["ends"][:-1])
            yield from zip(map(bytes, arrays["keys"]), rows, strict=True)

    def _write(self, work: Callable[[], Any]) -> Any:
        """Return the result of `work`, or None if the cache cannot be written."""
        if not self._writable:
            return None
        try:
            make_shared(self.folder)  # each time, because `cache prune` may delete the folder at any time
            if not (self.folder / _ABOUT).exists():
                write_json(self.folder / _ABOUT, self._about, mode=file_mode())
            return work()
        except OSError as error:
            self._writable = False
            self._say(
                f"{self.folder}: cannot be written ({error.strerror}); reference log-probabilities are not cached"
            )
            return None


def _mask(buckets: Iterable[int]) -> int:
    return sum(1 << bucket for bucket in set(buckets))


# -- for `psychocounsel cache`


def folders(cache: Path) -> list[Path]:
    """Return the folders of all references."""
    paths = sorted(_home(cache).glob("*"))
    return [
        folder for folder in paths if _FOLDER.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink()
    ]


def entries(cache: Path) -> Iterator[Entry]:
    """Yield the cache entry of each reference."""
    for folder in folders(cache):
        entry = _entry(folder)
        if entry.files or entry.locks:
            yield entry


def _entry(folder: Path) -> Entry:
    entry = Entry("reference", used=folder.stat().st_mtime, folder=folder)
    for file in sorted(folder.iterdir()):
        if _SHARD.fullmatch(file.name) and (about := about_of(file)) is not None:
            entry.files.append(file)
            entry.rows += about["rows"]
        elif _LOCK.fullmatch(file.name):
            entry.locks.append(file)
    about_file = folder / _ABOUT
    with contextlib.suppress(DamagedFile, KeyError, TypeError):
        entry.of = read_json(about_file)["of"]
        entry.files.append(about_file)
        entry.used = about_file.stat().st_mtime
    return entry


# Computing the missing values. Processes that need the same values share the work.

FLUSH_SECONDS = 10.0  # the most work that a killed process loses
# Wait before a lock that a live process held is checked again, because on NFS each check writes a file.
RETRY_SECONDS = 5.0

Order = list[tuple[int, list[int]]]  # unit numbers, each with positions of its completions


@dataclass
class Unit:
    """Distinct completions of one prompt, which share a forward pass."""

    prompt_ids: Array
    replies: list[Completion]
    keys: list[bytes]
    bucket: int

    def group(self, positions: Sequence[int]) -> Group:
        return Group("", self.prompt_ids, [self.replies[position] for position in positions])


def make_units(groups: Sequence[Group], keys: Sequence[Sequence[bytes]], budget: int) -> list[Unit]:
    """Return all distinct completions of `groups` as units, sorted by bucket.

    A unit of several completions has at most `budget` tokens. `keys` are the row keys of the completions.
    """
    prompts: dict[bytes, tuple[Array, dict[bytes, Completion]]] = {}
    for group, names in zip(groups, keys, strict=True):
        _, replies = prompts.setdefault(group.prompt_ids.tobytes(), (group.prompt_ids, {}))
        replies |= {
            key: Completion(reply.ids, trained=reply.trained)
            for key, reply in zip(names, group.completions, strict=True)
        }
    units: list[Unit] = []
    for prompt_ids, replies in prompts.values():
        room = 0
        for key, reply in replies.items():
            if len(reply.ids) > room or not room:
                units.append(Unit(prompt_ids, [], [], bucket_of(prompt_ids)))
                room = budget - len(prompt_ids)
            units[-1].replies.append(reply)
            units[-1].keys.append(key)
            room = max(0, room - len(reply.ids))
    return sorted(units, key=lambda unit: unit.bucket)


class CacheFiller:
    """Completes a store: it tells a process which rows of `units` to compute, and stores them.

    A process computes only the rows of buckets that it has locked. Rows of other buckets appear in the store when the
    process that locked these has computed them. The order of rows is fixed, so that a killed and restarted process
    computes the same batches as an uninterrupted one.

    `known`: the values of all rows so far. `computed`: the number of rows that this process computed.
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
