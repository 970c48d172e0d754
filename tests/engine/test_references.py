"""Cached reference log-probabilities equal computed ones, are computed once, and wrong values are never used."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from psychocounsel.data.group import Completion, Group
from psychocounsel.engine.reference_store import CacheFiller, ReferenceStore, Unit, make_units, row_key
from psychocounsel.storage import files, locks
from psychocounsel.storage.modes import own_umask, restricted
from tests.support.processes import FORKED

IDENTITY = {"weights": "sha256:1", "dtype": "torch.float32"}


def some_groups(count: int, seed: int = 0) -> list[Group]:
    """Return pairs, some with the same prompt and some with a common reply."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, 99, rng.integers(2, 9), dtype=np.int32) for _ in range(max(1, count // 2))]
    groups = []
    for number in range(count):
        replies = [rng.integers(0, 99, rng.integers(1, 7), dtype=np.int32) for _ in range(2)]
        groups.append(Group(str(number), prompts[number % len(prompts)], [Completion(ids) for ids in replies]))
        if number >= len(prompts):
            groups[-1].completions[0] = groups[number - len(prompts)].completions[0]
    return groups


def ids_of(unit: Unit) -> list[np.ndarray]:
    return [reply.ids for reply in unit.replies]


def keys_of(groups: list[Group]) -> list[list[bytes]]:
    return [[row_key(group.prompt_ids, reply.ids) for reply in group.completions] for group in groups]


def computed(prompt_ids: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return float32[len] that depend on every token, in place of a model's log-probabilities."""
    seed = np.frombuffer(row_key(prompt_ids, ids), np.uint32)
    return np.random.default_rng(seed).normal(-3, 1, len(ids)).astype(np.float32)


def fill(
    cache: Path | ReferenceStore,
    groups: list[Group],
    said: Callable[[str], None] = print,
    seconds: float = 0.0,
    size: int = 4,
    identity: dict = IDENTITY,
) -> tuple[dict[bytes, np.ndarray], list[bytes]]:
    """Return all rows of `groups`, and the keys of the rows that were computed here."""
    units = make_units(groups, keys_of(groups), 60)
    store = cache if isinstance(cache, ReferenceStore) else ReferenceStore(str(cache), identity, "test", said)
    filler = CacheFiller(store, units)
    mine: list[bytes] = []
    while (order := filler.next(size)) is not None:
        batch = [units[number].group(positions) for number, positions in order]
        time.sleep(seconds * len(batch) if batch else 0.02)
        filler.add(order, [[computed(group.prompt_ids, reply.ids) for reply in group.completions] for group in batch])
        mine += [units[number].keys[position] for number, positions in order for position in positions]
    filler.close()
    return filler.known, mine


def expected(groups: list[Group]) -> dict[bytes, np.ndarray]:
    return {
        row_key(group.prompt_ids, reply.ids): computed(group.prompt_ids, reply.ids)
        for group in groups
        for reply in group.completions
    }


def assert_right(known: dict[bytes, np.ndarray], groups: list[Group]) -> None:
    wanted = expected(groups)
    assert known.keys() == wanted.keys()
    assert all(np.array_equal(known[key], wanted[key]) for key in wanted)


def names(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("reference/*/*"))


def test_what_is_kept_is_what_was_computed_and_each_row_once(tmp_path: Path) -> None:
    groups = some_groups(40)
    known, mine = fill(tmp_path, groups)
    assert_right(known, groups)
    assert len(mine) == len(set(mine)) == len(expected(groups)) < 80, "a reply in two pairs is one row"
    again, none = fill(tmp_path, groups)
    assert_right(again, groups)
    assert none == []
    more = some_groups(40) + some_groups(10, seed=1)
    known, mine = fill(tmp_path, more)
    assert_right(known, more)
    assert set(mine) == expected(some_groups(10, seed=1)).keys()
    assert not [name for name in names(tmp_path) if not name.endswith((".logprobs", "about.json"))]


def test_one_store_serves_part_after_part(tmp_path: Path) -> None:
    """A run fills the store in parts: first its training rows, then its held-out rows."""
    parts = [some_groups(30), some_groups(30, seed=1)]
    for expect_work in (True, False):
        store = ReferenceStore(str(tmp_path), IDENTITY, "test", print)
        for groups in parts:
            known, mine = fill(store, groups)
            assert_right(known, groups)
            assert bool(mine) == expect_work
        (tmp_path / "reference" / store.folder.name / "a.logprobs").write_text("mine")
    said: list[str] = []
    store = ReferenceStore(str(tmp_path), IDENTITY, "test", said.append)
    assert [fill(store, groups[:5] + some_groups(2, seed=7))[1] == [] for groups in parts] == [False, True]
    assert len(said) == 1, "a foreign file is reported once"


def test_a_prompt_is_computed_once_for_all_its_replies_as_far_as_the_budget_allows() -> None:
    prompt = np.arange(5, dtype=np.int32)
    groups = [
        Group("a", prompt, [Completion(np.full(10, reply, np.int32)) for reply in pair])
        for pair in ([1, 2], [1, 3], [4, 2], [5, 6])
    ]
    units = make_units(groups, keys_of(groups), 40)
    assert [len(unit.replies) for unit in units] == [3, 3]
    assert max(unit.group(range(3)).tokens for unit in units) <= 40
    (alone, *_) = make_units(groups, keys_of(groups), 12)
    assert len(alone.replies) == 1, "a reply above the budget is still computed"


def test_the_boundary_of_prompt_and_reply_is_part_of_the_key() -> None:
    ids = np.arange(6, dtype=np.int32)
    assert len({row_key(ids[:cut], ids[cut:]) for cut in range(1, 6)}) == 5


# -- several processes at once


def run(number: int, cache: Path, groups: list[Group], gate: object, results: object) -> None:
    gate.wait()  # type: ignore[attr-defined]
    known, mine = fill(cache, groups, seconds=0.003)
    results.put((known, mine))  # type: ignore[attr-defined]


@pytest.mark.slow
def test_eight_processes_starting_together_compute_each_row_once(tmp_path: Path) -> None:
    everything = some_groups(160)
    parts = [everything if number % 2 else everything[number * 10 : number * 10 + 90] for number in range(8)]
    gate, results = FORKED.Barrier(9), FORKED.Queue()
    processes = [FORKED.Process(target=run, args=(n, tmp_path, part, gate, results)) for n, part in enumerate(parts)]
    for process in processes:
        process.start()
    gate.wait()
    outcomes = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    mine = [key for _, some in outcomes for key in some]
    assert sorted(mine) == sorted(expected(everything)), "each row is computed by one process"
    assert sum(bool(some) for _, some in outcomes) > 1, "the processes share the work"
    for known, part in zip(
        sorted((k for k, _ in outcomes), key=len), sorted(parts, key=lambda p: len(expected(p))), strict=True
    ):
        assert len(known) == len(expected(part))
        assert all(np.array_equal(row, expected(everything)[key]) for key, row in known.items())
    assert all(name.endswith((".logprobs", "about.json")) for name in names(tmp_path))


# -- killed writers


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half_a_file(path: Path, pieces: list[bytes], **_: object) -> None:
    path.with_name(f".{path.name}.{'0' * 32}.tmp").write_bytes(b"".join(map(bytes, pieces))[:100])
    die()


DEATHS = {
    "locks taken, nothing computed": (CacheFiller, "add"),
    "computed, nothing written": (ReferenceStore, "add"),
    "half a file written": ("blob", "write_atomically"),
    "written, not renamed": (files.os, "replace"),
    "renamed, locks not released": (locks.Lock, "release"),
}


def die_at(place: str, cache: Path, groups: list[Group]) -> None:
    from psychocounsel.storage import blob

    where, name = DEATHS[place]
    if where == "blob":
        blob.write_atomically = half_a_file  # type: ignore[assignment]
    elif where is files.os:
        replace = os.replace
        os.replace = lambda old, new: die() if str(new).endswith("logprobs") else replace(old, new)  # type: ignore
    else:
        setattr(where, name, die)
    fill(cache, groups)


@pytest.mark.parametrize("place", DEATHS)
def test_a_killed_writer_leaves_no_poison_and_its_rows_are_computed_by_the_next(place: str, tmp_path: Path) -> None:
    groups = some_groups(30)
    fill(tmp_path, groups[:4])
    process = FORKED.Process(target=die_at, args=(place, tmp_path, groups))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert any(name.endswith(".lock") for name in names(tmp_path)), "the process died holding locks"
    known, mine = fill(tmp_path, groups, pytest.fail)
    assert_right(known, groups)
    rows = expected(groups).keys() - expected(groups[:4]).keys()
    assert set(mine) == (set() if place.startswith("renamed") else rows)
    assert fill(tmp_path, groups)[1] == []


def test_rows_of_a_live_process_are_waited_for(tmp_path: Path) -> None:
    groups = some_groups(12)
    gate, results = FORKED.Barrier(2), FORKED.Queue()
    store = ReferenceStore(str(tmp_path), IDENTITY, "test", print)
    units = make_units(groups, keys_of(groups), 60)
    filler = CacheFiller(store, units)
    order = filler.next(100)
    assert order is not None and len(order) == len(units)
    process = FORKED.Process(target=run, args=(0, tmp_path, groups, gate, results))
    process.start()
    gate.wait()
    time.sleep(0.5)
    assert results.empty() and process.is_alive()
    filler.add(order, [[computed(unit.prompt_ids, ids) for ids in ids_of(unit)] for unit in units])
    filler.close()
    known, mine = results.get(timeout=120)
    process.join()
    assert_right(known, groups)
    assert mine == []


def test_who_stops_gives_up_its_locks_and_keeps_its_rows(tmp_path: Path) -> None:
    groups = some_groups(30)
    units = make_units(groups, keys_of(groups), 60)
    filler = CacheFiller(ReferenceStore(str(tmp_path), IDENTITY, "test", print), units)
    order = filler.next(5)
    assert order is not None
    filler.add(order, [[computed(units[n].prompt_ids, ids) for ids in ids_of(units[n])] for n, _ in order])
    filler.next(5)
    filler.close()
    assert not [name for name in names(tmp_path) if name.endswith(".lock")]
    known, mine = fill(tmp_path, groups)
    assert_right(known, groups)
    assert len(mine) == len(known) - sum(len(positions) for _, positions in order)


def test_what_is_not_finite_is_not_kept(tmp_path: Path) -> None:
    groups = some_groups(2)
    units = make_units(groups, keys_of(groups), 60)
    filler = CacheFiller(ReferenceStore(str(tmp_path), IDENTITY, "test", print), units)
    order = filler.next(9)
    assert order is not None
    filler.add(order, [[np.full(len(ids), np.nan, np.float32) for ids in ids_of(units[n])] for n, _ in order])
    assert filler.next(9) is None
    filler.close()
    assert_right(fill(tmp_path, groups)[0], groups)


# -- damaged and foreign files


def shards(cache: Path) -> list[Path]:
    return sorted(cache.glob("reference/*/*.logprobs"))


@pytest.mark.parametrize("cut", [0, 5, 60, 200, 0.5, -1])
def test_a_file_cut_short_is_said_removed_and_made_again(cut: float, tmp_path: Path) -> None:
    groups = some_groups(20)
    fill(tmp_path, groups)
    (shard,) = shards(tmp_path)
    content = shard.read_bytes()
    shard.write_bytes(content[: int(cut * len(content)) if isinstance(cut, float) else cut])
    assert_made_again(tmp_path, shard, groups)


@pytest.mark.parametrize("where", [30, 90, 100, 200, 0.3, 0.6, 0.9])
def test_a_flipped_bit_is_noticed(where: float, tmp_path: Path) -> None:
    groups = some_groups(20)
    fill(tmp_path, groups)
    (shard,) = shards(tmp_path)
    content = bytearray(shard.read_bytes())
    content[int(where * len(content)) if isinstance(where, float) else where] ^= 0x04
    shard.write_bytes(content)
    assert_made_again(tmp_path, shard, groups)


def assert_made_again(cache: Path, shard: Path, groups: list[Group]) -> None:
    said: list[str] = []
    known, mine = fill(cache, groups, said.append)
    assert_right(known, groups)
    assert set(mine) == known.keys()
    assert len(said) == 1 and str(shard) in said[0] and "damaged" in said[0]
    assert not shard.exists()
    assert fill(cache, groups, pytest.fail)[1] == []


def test_foreign_files_are_not_used_and_left_alone(tmp_path: Path) -> None:
    groups = some_groups(20)
    fill(tmp_path, groups, identity={"weights": "other"})
    (other,) = shards(tmp_path)
    fill(tmp_path, groups[:1])
    folder = next(path for path in tmp_path.glob("reference/*") if path != other.parent)
    strangers = {"notes.txt": b"mine", "a.logprobs": b"mine", f"{'f' * 16}-{'0' * 32}.logprobs": b"\0" * 500}
    strangers[other.name] = other.read_bytes()
    for name, content in strangers.items():
        (folder / name).write_bytes(content)
    said: list[str] = []
    known, mine = fill(tmp_path, groups, said.append)
    assert_right(known, groups)
    assert set(mine) == known.keys() - expected(groups[:1]).keys()
    assert len(said) == 3 and all("ignored" in line for line in said)
    assert all((folder / name).read_bytes() == content for name, content in strangers.items())


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "reference").write_text("in the way")
    said: list[str] = []
    groups = some_groups(20)
    known, mine = fill(tmp_path, groups, said.append)
    assert_right(known, groups)
    assert len(mine) == len(known)
    assert len(said) == 1 and "cannot be written" in said[0]


def test_a_folder_that_is_removed_meanwhile_is_made_again(tmp_path: Path) -> None:
    import shutil

    groups = some_groups(20)
    units = make_units(groups, keys_of(groups), 60)
    filler = CacheFiller(ReferenceStore(str(tmp_path), IDENTITY, "test", pytest.fail), units)
    order = filler.next(100)
    assert order is not None
    shutil.rmtree(tmp_path / "reference")
    filler.add(order, [[computed(unit.prompt_ids, ids) for ids in ids_of(unit)] for unit in units])
    assert filler.next(100) is None
    filler.close()
    known, mine = fill(tmp_path, groups)
    assert_right(known, groups)
    assert mine == []


def test_rows_of_private_data_are_private_in_a_cache_that_users_share(tmp_path: Path) -> None:
    said: list[str] = []
    store = ReferenceStore(str(tmp_path / "cache"), IDENTITY, "test", said.append)
    with restricted(0o077):
        assert store.lock(3)
        store.add({bytes(32): np.zeros(2, np.float32)}, [3])
    assert {path.stat().st_mode & 0o777 for path in store.folder.glob("*.logprobs")} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (store.folder, store.folder.parent)} == {0o777 & ~own_umask()}
    lock, about = store.folder / "bucket-03.lock", store.folder / "about.json"
    assert {path.stat().st_mode & 0o777 for path in (lock, about)} == {0o666 & ~own_umask()}
    store.release(3)
    assert said == []
