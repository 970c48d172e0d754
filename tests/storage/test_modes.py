"""New files are as private as the strictest source file, whatever the umask of the process."""

import os
from pathlib import Path

import pytest

from psychocounsel.storage import modes
from psychocounsel.storage.files import write_atomically
from psychocounsel.storage.locks import Lock
from psychocounsel.storage.modes import file_mode, make_shared, mask_of, restricted


@pytest.fixture(autouse=True)
def usual_umask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes, "_own", [])
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def made(folder: Path, mode: int) -> Path:
    path = folder / f"source-{mode:o}"
    path.touch()
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("sources", "file", "folder"),
    [
        ([0o644], 0o644, 0o755),
        ([0o600], 0o600, 0o700),
        ([0o640], 0o640, 0o750),
        ([0o644, 0o640, 0o604], 0o600, 0o700),
        ([0o444], 0o644, 0o755),
        ([0o660, 0o664], 0o640, 0o750),  # the umask still applies
        ([0o400], 0o600, 0o700),
        ([], 0o644, 0o755),
    ],
)
def test_files_and_folders_inherit(sources: list[int], file: int, folder: int, tmp_path: Path) -> None:
    mask = mask_of([made(tmp_path, mode) for mode in sources] + [tmp_path / "gone"], tmp_path)
    with restricted(mask):
        write_atomically(tmp_path / "file", "text")
        (tmp_path / "folder").mkdir()
        write_atomically(tmp_path / "shared", "no text", mode=file_mode())
        make_shared(tmp_path / "cache" / "tokenised")
        lock = Lock(tmp_path / "cache" / "lock")
        assert lock.take()
    assert (mode_of(tmp_path / "file"), mode_of(tmp_path / "folder")) == (file, folder)
    assert mode_of(tmp_path / "shared") == mode_of(lock.path) == 0o644  # they hold no text
    assert mode_of(tmp_path / "cache") == mode_of(tmp_path / "cache" / "tokenised") == 0o755
    assert file_mode(mask) == file
    lock.release()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another group")
def test_another_group_gets_what_others_get(tmp_path: Path) -> None:
    source = made(tmp_path, 0o640)
    os.chown(source, -1, os.getegid() + 4321)
    assert mask_of([source], tmp_path) == 0o077
    shared = tmp_path / "of the group"
    shared.mkdir()
    os.chown(shared, -1, os.getegid() + 4321)
    shared.chmod(0o2770)  # new files in it get its group
    assert mask_of([source], shared / "not yet there") == 0o027
