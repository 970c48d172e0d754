"""Trusted files: those of this user and of root that nobody else can write to, and those below folders that the user names."""

import errno
import os
import pwd
import stat
from pathlib import Path
from typing import IO

from psychocounsel.storage.files import expanded

TRUST_VARIABLE = "PSYCHOCOUNSEL_TRUST"  # trusted folders with all their content, separated by colons


class Untrusted(PermissionError):
    """Error: another user could have written a file of a shared cache."""


def is_trusted(path: Path) -> bool:
    """Return True if `PSYCHOCOUNSEL_TRUST` names the path or a folder above it."""
    named = filter(None, os.environ.get(TRUST_VARIABLE, "").split(os.pathsep))
    return any(path.resolve().is_relative_to(expanded(trusted).resolve()) for trusted in named)


def belongs_to_others(status: os.stat_result) -> str:
    """Return the reason why another user could have written a file (its owner or permissions); an empty text if nobody could."""
    if status.st_uid not in (os.geteuid(), 0):  # root could write anything anyway
        return f"belongs to another user ({_name(status.st_uid)})"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by {'everyone' if status.st_mode & stat.S_IWOTH else 'its group'}"
    return ""


def open_trusted(path: Path) -> IO[bytes]:
    """Open an entry of a shared cache for reading.

    Raises:
        Untrusted: if another user could have written it.
        OSError: if it cannot be opened.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # a pipe would block
    why = belongs_to_others(os.fstat(file.fileno()))
    if why and not is_trusted(path):
        file.close()
        say = f"if you trust it, put {TRUST_VARIABLE}={path.parent} before the command"
        raise Untrusted(errno.EPERM, f"it {why}: {say}", str(path))
    return file


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"number {user}"
