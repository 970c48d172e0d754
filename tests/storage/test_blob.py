"""Cache files: arrays come back exactly, and any altered bit is noticed. File hashes are kept until a file changes."""

import os
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from psychocounsel.model.load import weights_id
from psychocounsel.storage import hashes
from psychocounsel.storage.blob import Damaged, Foreign, read_about, read_blob, write_blob
from psychocounsel.storage.files import read_json
from psychocounsel.storage.hashes import content_id

ARRAYS = {
    "ids": np.arange(7, dtype=np.int32),
    "none": np.empty(0, np.float32),
    "table": np.arange(6, dtype=np.uint8).reshape(2, 3),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_blob(tmp_path / "a.blob", {"rows": 3, "lines": ["ä\n", "b"]}, ARRAYS)
    return tmp_path / "a.blob"


def test_arrays_and_description_come_back(file: Path) -> None:
    about, arrays = read_blob(file)
    assert about == read_about(file) == {"rows": 3, "lines": ["ä\n", "b"]}
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype and np.array_equal(arrays[name], array)
    assert [path.name for path in file.parent.iterdir()] == ["a.blob"]


def test_a_flipped_bit_of_any_byte_and_every_cut_is_noticed(file: Path) -> None:
    whole = file.read_bytes()
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 1 << place % 8
        file.write_bytes(altered)
        with pytest.raises((Damaged, Foreign)):
            read_blob(file)
        file.write_bytes(whole[:place])
        with pytest.raises(Damaged):
            read_blob(file)
    file.write_bytes(b"another program's file")
    with pytest.raises(Foreign):
        read_blob(file)


def test_permissions_and_a_full_disk(tmp_path: Path) -> None:
    write_blob(tmp_path / "a", {}, ARRAYS, mode=0o600)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    (tmp_path / "b").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_blob(tmp_path / "b", {}, ARRAYS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"], "no temporary file stays"


# -- hashes of files


def weights(folder: Path, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(content)
    return folder


def identity(folder: Path, cache: Path) -> str:
    return weights_id(OmegaConf.create({"path": str(folder), "revision": None}), str(cache))


def test_weights_are_hashed_once_and_again_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "_SETTLED_SECONDS", 0.0)
    folder, cache = weights(tmp_path / "model", b"one"), tmp_path / "cache"
    first = identity(folder, cache)
    (note,) = cache.glob("hashes/*.json")
    assert read_json(note)["id"] == first
    note.write_text(note.read_text().replace(first, "sha256:noted"))
    assert identity(folder, cache) == "sha256:noted", "the weights were hashed again"
    before = (folder / "model.safetensors").stat()
    (folder / "model.safetensors").write_bytes(b"two")
    os.utime(folder / "model.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    second = identity(folder, cache)
    assert second.startswith("sha256:") and second not in (first, "sha256:noted"), "same size, another time"
    os.utime(weights(folder, b"one") / "model.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert identity(folder, cache) == first, "same size, and a time that was set back"
    note.write_text("{")
    assert identity(folder, cache) == first
    assert identity(weights(tmp_path / "copy", b"one"), cache) == first, "the same weights elsewhere"
    assert len(list(cache.glob("hashes/*"))) == 2


def test_what_has_just_changed_is_not_noted(tmp_path: Path) -> None:
    folder = weights(tmp_path / "model", b"one")
    content_id(folder, [folder / "config.json"], str(tmp_path / "cache"))
    assert not list(tmp_path.glob("cache/hashes/*")), "it may change again within one tick of the clock"


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    folder = weights(tmp_path / "model", b"one")
    assert identity(folder, tmp_path / "cache") == identity(folder, tmp_path / "other")
