"""Messages as a user types them, line by line in a terminal, or as they come from a pipe.

A line that ends with a backslash goes on in the next one. Lines between two lines of triple double quotes are one message.
"""

from __future__ import annotations

import re
import select
import sys
from collections.abc import Callable
from types import ModuleType

BLOCK = '"""'
_FIRST, _MORE = "you> ", "...> "
_PASTING = 0.02  # seconds between two lines that are pasted
_UNTYPABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Read = Callable[[bool], str | None]  # the next line; whether it goes on with a message; None at the end of the input


def clean(text: str) -> str:
    """A text without characters that would steer a terminal, or that no file could hold."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", errors="replace").decode()
    return _UNTYPABLE.sub("\ufffd", text)


def next_message(read: Read) -> str | None:
    """The next message or command that is not empty; None at the end of the input. Commands alone begin with a slash.

    What is no command though it holds one, a block or a line that begins with a space, keeps a space before it.
    """
    while (line := read(False)) is not None:
        text = clean(" " + _block(read) if line.strip() == BLOCK else _continued(line, read)).rstrip()
        if text:
            return text
    return None


def _block(read: Read) -> str:
    lines = list[str]()
    while (line := read(True)) is not None and line.strip() != BLOCK:
        lines.append(line)
    return "\n".join(lines)


def _continued(line: str, read: Read) -> str:
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        following = read(True)
        if following is None:
            break
        lines.append(following)
    return "\n".join(lines)


def read_piped(goes_on: bool) -> str | None:
    """The next line of standard input, whatever it is."""
    line = sys.stdin.readline()
    return line.removesuffix("\n") if line else None


def terminal_reader() -> Read:
    """Reads lines that a user edits. Of what is pasted, all lines are one.

    GNU readline puts what is pasted into the line. Without it, lines that wait are taken for pasted ones.
    """
    pastes_whole = _use_readline()

    def read(goes_on: bool) -> str | None:
        try:
            line = input(_MORE if goes_on else _FIRST)
        except EOFError:
            print()
            return None
        while not pastes_whole and select.select([sys.stdin], [], [], _PASTING)[0]:
            try:
                line += "\n" + input()
            except EOFError:
                break
        return line

    return read


def _use_readline() -> bool:
    """Let `input` edit lines, with a history that is kept in memory alone; whether pasted lines come as one."""
    readline: ModuleType
    try:
        import readline
    except ImportError:
        return False
    if "libedit" in (readline.__doc__ or ""):
        return False
    readline.parse_and_bind("set enable-bracketed-paste on")
    return True
