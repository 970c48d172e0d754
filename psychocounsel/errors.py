"""Errors for the user, their output, and the exit codes of every command."""

import errno
import sys
import threading
import traceback
from collections.abc import Iterable
from typing import IO

DONE, USER_ERROR, GATE_NO, GATE_UNDECIDED, CONTINUE_LATER = 0, 2, 3, 4, 75
INTERRUPTED = 130  # by Ctrl+C, as shells have it


def worst(codes: Iterable[int]) -> int:
    """Return the exit code of several runs: the highest, but 4 (undecided) only if all others are 0 or 4."""
    return max(codes, key=lambda code: (code != DONE, code != GATE_UNDECIDED, code))


class UserError(Exception):
    """Mistake in the user's input; the message says what to type instead. Exit code 2."""


class GoOnLater(Exception):
    """Temporary obstacle outside of the run; the message names it. Exit code 75."""


_hidden = [False]


def hide_words(hidden: bool) -> None:
    """Let this process hide messages of libraries and servers, because they might quote a text (`data.confidential`)."""
    _hidden[0] = hidden
    if hidden:
        sys.excepthook = lambda kind, error, trace: print_failure(error)
        threading.excepthook = lambda given: print_failure(given.exc_value) if given.exc_value else None


def words(text: str) -> str:
    """Return a message of a library or server, in the form that may be shown."""
    return "not shown: data.confidential=true" if _hidden[0] else text


def print_failure(error: BaseException, file: IO[str] | None = None) -> None:
    """Print the traceback of `error` to `file` (default: standard error); with hidden messages only the places in the code."""
    file = file or sys.stderr
    if not _hidden[0]:
        traceback.print_exception(error, file=file)
        return
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    for raised in reversed(chain):
        print("Traceback (most recent call last):", file=file)
        print("".join(traceback.format_tb(raised.__traceback__)), end="", file=file)
        print(f"{type(raised).__name__}: {raised if isinstance(raised, UserError) else words('')}", file=file)


class NonFinite(Exception):
    """Non-finite loss or gradient; the batch has been saved. Exit code 1."""


class Stopped(Exception):
    """Stop request that was followed; the state is on disk. Exit code 75: the same command resumes."""


class Unwritable(Exception):
    """Full disk while writing a run's files; no file is incomplete. Exit code 75: the same command resumes."""


class Guarded(Exception):
    """An evaluation exceeded a limit of `guard`, and `guard.stop` is set; the state is on disk. Exit code 3."""


def is_disk_full(error: BaseException | None) -> bool:
    """Return True if an error or its cause reports a full disk or quota, also in the words of safetensors and others."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
