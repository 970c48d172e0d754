"""Errors for the user, what every command prints, and the exit codes."""

import errno
import re
import sys
import threading
import traceback
from collections.abc import Iterable
from typing import IO, Any, TextIO

DONE, USER_ERROR, GATE_NO, GATE_UNDECIDED, CONTINUE_LATER = 0, 2, 3, 4, 75
INTERRUPTED = 130  # by Ctrl+C, as shells have it


def worst(codes: Iterable[int]) -> int:
    """Return the exit code of several runs: the highest, but 4 (undecided) only if all others are 0 or 4."""
    return max(codes, key=lambda code: (code != DONE, code != GATE_UNDECIDED, code))


# Output

# Control characters but newline and tab, lone surrogates, and characters that reverse the text behind them
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return a text without characters that control a terminal, reverse its lines or cannot be saved."""
    return _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


class PrintableStream:
    """A text stream that writes printable text alone to the stream `below`, in characters that its encoding has."""

    def __init__(self, below: TextIO) -> None:
        self.below = below

    def write(self, text: str) -> int:
        encoding = self.below.encoding or "utf-8"
        self.below.write(printable(text).encode(encoding, "replace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)


def print_printable() -> None:
    """Let this process print printable text alone, because names, logs and records may come from somebody else."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, PrintableStream):
            setattr(sys, name, PrintableStream(stream))


def controlled(stream: Any) -> Any:
    """Return the stream below a `PrintableStream`, for this program's own control sequences, such as those of a bar."""
    return getattr(stream, "below", stream)


# Errors


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
