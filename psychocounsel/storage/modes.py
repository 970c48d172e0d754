"""Permissions of the files that a run makes: only users who may read all of its sources may read them."""

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

_OTHERS, _READ, _READ_AND_WRITE = 0o077, 0o044, 0o066
_own: list[int] = []  # the user's own umask, once `restrict` has changed the process's


def mask_of(files: Iterable[Path], place: Path) -> int:
    """The umask under which what is made in the folder `place` is as private as the strictest of `files`.

    Group and others get what all files give them, and x on folders where they may read. A file's group is not that of what
    is made in `place`, perhaps: then the group gets what others get. Files that are not there count for nothing.
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
    """The group of files that are made in `place`."""
    folder = next((path for path in (place, *place.absolute().parents) if path.is_dir()), None)
    about = folder.stat() if folder else None
    return about.st_gid if about and about.st_mode & stat.S_ISGID else os.getegid()


def own_umask() -> int:
    """The user's own umask, whatever this process has made of it."""
    if _own:
        return _own[0]
    found = os.umask(_OTHERS)
    os.umask(found)
    return found


def restrict(mask: int) -> None:
    """Add `mask` to this process's umask, for all that it and its children make from now on."""
    own = own_umask()
    _own[:] = [own]
    os.umask(own | mask)


def let_nobody_else_write() -> None:
    """Make this process's files and folders writable for their owner alone: code and weights of a run are loaded again."""
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
    """The permissions of a new file by the user's own umask and `mask`, whatever this process's umask is."""
    return 0o666 & ~(own_umask() | mask)


def make_shared(folder: Path) -> None:
    """Make a folder of a cache that users share: it holds no text itself, so it has the permissions of the own umask."""
    for path in [path for path in (*reversed(folder.parents), folder) if not path.exists()]:
        with contextlib.suppress(FileExistsError):  # another process was faster
            path.mkdir()
            path.chmod(0o777 & ~own_umask())
