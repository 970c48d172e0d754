"""Reads messages line by line from a terminal or a pipe.

A line that ends with a backslash continues on the next line. Lines between two lines of triple double quotes are one message.
"""

from __future__ import annotations

import re
import select
import sys
from collections.abc import Callable
from types import ModuleType

BLOCK = '"""'
_FIRST, _MORE = "you> ", "...> "
_PASTING = 0.02  # seconds in which the next pasted line arrives
_UNTYPABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Read = Callable[[bool], str | None]  # returns the next line, or None at the end; the argument is True inside a message


def clean(text: str) -> str:
    """Return a text without characters that control a terminal or cannot be saved."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", errors="replace").decode()
    return _UNTYPABLE.sub("\ufffd", text)


def next_message(read: Read) -> str | None:
    """Return the next message or command that is not empty, or None at the end of the input.

    Only commands begin with a slash: a block, or a line that begins with a space, is returned with a space before it.
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
    """Return the next line of standard input."""
    line = sys.stdin.readline()
    return line.removesuffix("\n") if line else None


def terminal_reader() -> Read:
    """Return a function that reads edited lines from the terminal; pasted lines are joined into one message.

    GNU readline inserts a paste into the line as a whole. Without it, lines that are already waiting count as pasted.
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
    """Enable line editing in `input`, with a history in memory only; returns True if a paste arrives as a whole."""
    readline: ModuleType
    try:
        import readline
    except ImportError:
        return False
    if "libedit" in (readline.__doc__ or ""):
        return False
    readline.parse_and_bind("set enable-bracketed-paste on")
    return True
