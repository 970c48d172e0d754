"""The terminal of a conversation: reads messages and shows replies while they are written."""

from __future__ import annotations

import select
import sys
from abc import abstractmethod
from collections.abc import Callable, Sequence
from types import ModuleType, TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from psychocounsel.errors import controlled, printable

# Messages from a terminal or a pipe
#
# A line that ends with a backslash continues on the next line. Lines between two lines of triple double quotes are
# one message.

BLOCK = '"""'
_FIRST, _MORE = "you> ", "...> "
_PASTING = 0.02  # seconds in which the next pasted line arrives

Read = Callable[[bool], str | None]  # returns the next line, or None at the end; the argument is True inside a message


def next_message(read: Read) -> str | None:
    """Return the next message or command that is not empty, or None at the end of the input.

    Only commands begin with a slash: a block, or a line that begins with a space, is returned with a space before it.
    """
    while (line := read(False)) is not None:
        text = printable(" " + _block(read) if line.strip() == BLOCK else _continued(line, read)).rstrip()
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
    """Return the next line of standard input, without the byte order mark that some editors write before the first one."""
    line = sys.stdin.readline()
    return line.removeprefix("\ufeff").removesuffix("\n") if line else None


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


# Display of replies: side by side on a wide terminal

_NARROWEST = 36  # minimum width of a reply in a side-by-side view [columns]
_FRAME = 4  # lines of the terminal not used for replies


class Screen:
    """Prints lines to `console` unchanged: without markup and highlighting, and without breaking long lines."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @classmethod
    def opened(cls) -> Screen:
        return cls(Console(file=controlled(sys.stdout), highlight=False, markup=False, emoji=False))

    def line(self, text: str = "", style: str = "") -> None:
        """Print a line."""
        self.console.print(Text(printable(text)), style=style, soft_wrap=True)

    def replies(self, names: Sequence[str]) -> Replies:
        """Return the display for the replies of these models."""
        side_by_side = self.console.is_terminal and 1 < len(names) <= self.console.width // _NARROWEST
        return _SideBySide(self, names) if side_by_side else _InTurn(self, names)


class Replies:
    """Base class of displays of replies, used as a context. `index` is a model's place in `names`."""

    def __init__(self, screen: Screen, names: Sequence[str]) -> None:
        self.screen, self.names = screen, names
        self.texts, self.ends = [""] * len(names), list[list[str] | None]([None] * len(names))

    def show(self, index: int, text: str) -> None:
        """Show the text of a reply so far."""
        self.texts[index] = printable(text)
        self.update()

    def end(self, index: int, text: str, remarks: Sequence[str]) -> None:
        """Show a complete reply and the remarks on it."""
        self.texts[index], self.ends[index] = printable(text), [printable(line) for line in remarks]
        self.update()

    @abstractmethod
    def update(self) -> None:
        """Show the changes."""

    def __enter__(self) -> Replies:
        self.update()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the display."""


class _InTurn(Replies):
    """Replies one below the other: a reply is shown while it grows, and the next one after it has ended."""

    def __init__(self, screen: Screen, names: Sequence[str]) -> None:
        super().__init__(screen, names)
        self.current, self.shown, self.begun = 0, "", False

    def update(self) -> None:
        while self.current < len(self.names):
            if not self.begun:
                self._put(f"{self.names[self.current]}> ", "bold green")
                self.begun = True
            text, remarks = self.texts[self.current], self.ends[self.current]
            self._grow(text if remarks is not None else text.rstrip())
            if remarks is None:
                return
            self._put("\n")
            for line in remarks:
                self.screen.line(f"  {line}", "dim")
            self.current, self.shown, self.begun = self.current + 1, "", False

    def _grow(self, text: str) -> None:
        if not text.startswith(self.shown):  # the text shown so far turned out not to be part of the reply
            self._put("\n")
            self.shown = ""
        self._put(text[len(self.shown) :])
        self.shown = text

    def _put(self, text: str, style: str = "") -> None:
        if text:
            self.screen.console.print(Text(text), style=style, end="", soft_wrap=True)
            sys.stdout.flush()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.begun:
            self._put("\n")


class _SideBySide(Replies):
    """Replies in columns that grow at the same time. If a column is longer than the terminal, its end is shown."""

    def __init__(self, screen: Screen, names: Sequence[str]) -> None:
        super().__init__(screen, names)
        self.live = Live(console=screen.console, auto_refresh=False)

    def __enter__(self) -> Replies:
        self.live.start()
        return super().__enter__()

    def update(self) -> None:
        self.live.update(self._table(self.screen.console.height - _FRAME), refresh=True)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.live.update(self._table(None))
        self.live.stop()

    def _table(self, height: int | None) -> Table:
        table = Table(expand=True, box=None, padding=(0, 1), header_style="bold green")
        for name in self.names:
            table.add_column(Text(name), ratio=1)
        width = self.screen.console.width // len(self.names) - 2
        table.add_row(*(self._cell(index, width, height) for index in range(len(self.names))))
        return table

    def _cell(self, index: int, width: int, height: int | None) -> Text:
        text = Text(self.texts[index])
        for line in self.ends[index] or ():
            text.append(f"\n{line}", "dim")
        return text if height is None else Text("\n").join(text.wrap(self.screen.console, width)[-height:])
