"""Permissions of a run's files: a user may read them only if all of the run's source files allow it."""

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

_OTHERS, _READ, _READ_AND_WRITE = 0o077, 0o044, 0o066
_own: list[int] = []  # the user's own umask, set once `restrict` has changed the umask of the process


def mask_of(files: Iterable[Path], place: Path) -> int:
    """Return the umask that makes new files in the folder `place` as private as the strictest of `files`.

    Group and others get a permission only if all files grant it; folders they may read are also searchable (x). If a source
    file's group differs from the group of new files in `place`, that group gets only the permissions of others. Missing files
    are ignored.
    """
    allowed, group = _READ_AND_WRITE, _group_in(place)
    for file in files:
        with contextlib.suppress(OSError):
            about = file.stat()
            mode = about.st_mode
            if about.st_gid != group:
                mode &= ~0o070 | (mode & 0o007) << 3
            allowed &= mode
    return _OTHERS & ~(allowed | (allowed & _READ) >> 2)


def _group_in(place: Path) -> int:
    """Return the group id of new files in `place`."""
    folder = next((path for path in (place, *place.absolute().parents) if path.is_dir()), None)
    about = folder.stat() if folder else None
    return about.st_gid if about and about.st_mode & stat.S_ISGID else os.getegid()


def own_umask() -> int:
    """Return the user's own umask, even after this process has changed its umask."""
    if _own:
        return _own[0]
    umask = os.umask(_OTHERS)
    os.umask(umask)
    return umask


def restrict(mask: int) -> None:
    """Add `mask` to this process's umask. It holds for all files that the process and its children make afterwards."""
    own = own_umask()
    _own[:] = [own]
    os.umask(own | mask)


def let_nobody_else_write() -> None:
    """Let only the owner write this process's new files and folders, because a run's code and weights are loaded again."""
    restrict(0o022)


@contextlib.contextmanager
def restricted(mask: int) -> Iterator[None]:
    """Add `mask` to this process's umask while the block runs."""
    known, own = _own[:], own_umask()
    before = os.umask(_OTHERS)
    os.umask(before | mask)
    _own[:] = [own]
    try:
        yield
    finally:
        os.umask(before)
        _own[:] = known


def file_mode(mask: int = 0) -> int:
    """Return the permissions of a new cache entry under the user's own umask and `mask`, whatever this process's umask is.

    Nobody else may write it, because readers trust no other entries.
    """
    return 0o644 & ~(own_umask() | mask)


def make_shared(folder: Path) -> None:
    """Make a cache folder that users share. It gets the permissions of the user's own umask, because it holds no text itself."""
    for path in [path for path in (*reversed(folder.parents), folder) if not path.exists()]:
        with contextlib.suppress(FileExistsError):  # another process was faster
            path.mkdir()
            path.chmod(0o777 & ~own_umask())
