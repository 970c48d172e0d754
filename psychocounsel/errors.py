"""The errors a user can meet, how they are told, and the exit codes of every command."""

import errno
import sys
import threading
import traceback
from collections.abc import Iterable
from typing import IO

DONE, USER_ERROR, GATE_NO, GATE_UNDECIDED, CONTINUE_LATER = 0, 2, 3, 4, 75


def worst(codes: Iterable[int]) -> int:
    """The exit code of several runs: the highest of theirs, but 4 (undecided) only where no other run failed or was refused."""
    return max(codes, key=lambda code: (code != DONE, code != GATE_UNDECIDED, code))


class UserError(Exception):
    """Something the user typed or supplied is wrong; the message says what to type instead. Exit code 2."""


class GoOnLater(Exception):
    """Something outside of the run stands in its way for now; the message says what. Exit code 75."""


_hidden = [False]


def hide_words(hidden: bool) -> None:
    """Whether this process keeps words of libraries and servers to itself: they might quote a text (`data.confidential`)."""
    _hidden[0] = hidden
    if hidden:
        sys.excepthook = lambda kind, error, trace: print_failure(error)
        threading.excepthook = lambda given: print_failure(given.exc_value) if given.exc_value else None


def words(text: str) -> str:
    """What a library or a server says, as a message may show it."""
    return "not shown: data.confidential=true" if _hidden[0] else text


def print_failure(error: BaseException, file: IO[str] | None = None) -> None:
    """Print the traceback of `error` to `file` (default: standard error); of hidden words the places in code alone."""
    file = file or sys.stderr
    if not _hidden[0]:
        traceback.print_exception(error, file=file)
        return
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    for each in reversed(chain):
        print("Traceback (most recent call last):", file=file)
        print("".join(traceback.format_tb(each.__traceback__)), end="", file=file)
        print(f"{type(each).__name__}: {each if isinstance(each, UserError) else words('')}", file=file)


class NonFinite(Exception):
    """A loss or gradient is NaN or infinite; the batch has been saved. Exit code 1."""


class Stopped(Exception):
    """A stop request was honoured and the state is on disk. Exit code 75: the same command goes on."""


class Unwritable(Exception):
    """The disk takes no more of a run's files; none is half there. Exit code 75: the same command goes on."""


class Guarded(Exception):
    """An evaluation exceeded a limit of `guard`, and `guard.stop` is set; the state is on disk. Exit code 3."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, says that a disk or a quota is full: also as safetensors and others word it."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
