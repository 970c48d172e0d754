"""Code blocks and commands of Markdown pages. A block below the line `<!-- run -->` is run as printed (CONTRIBUTING.md)."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.harness import ROOT

RUN = "<!-- run -->"
_FENCE = re.compile(r"^(```|~~~)\s*(\w*)")
_SHELL = ("", "bash", "sh", "shell", "console")
_INLINE = re.compile(r"`((?:\w+=\S+ )*psychocounsel [^`]*)`")
_COMMAND = re.compile(r"^(?:\$ )?(?:\w+=\S+ )*psychocounsel (\w+)(?=\s|$)\s*(.*)$", re.DOTALL)
_OPERATORS = {"|", "||", "&", "&&", ";", ">", ">>", "<", "2>", "(", ")"}


@dataclass(frozen=True)
class Block:
    """A code block: its page, the line of its first text (from 1), its language ("" if none), and whether it is run."""

    page: Path
    line: int
    language: str
    text: str
    is_run: bool

    @property
    def is_shell(self) -> bool:
        return self.language in _SHELL


@dataclass(frozen=True)
class Command:
    """A command of the package on a page: its name and its arguments as a shell would give them."""

    page: str
    line: int
    name: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.name} {shlex.join(self.arguments)}"


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced and indented code blocks of a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    number, marked = 0, False
    while number < len(lines):
        line, start = lines[number], number
        if fence := _FENCE.match(line):
            end = next((n for n in range(number + 1, len(lines)) if lines[n].startswith(fence[1])), len(lines))
            yield Block(page, start + 2, fence[2], "\n".join(lines[number + 1 : end]) + "\n", marked)
            number, marked = end + 1, False
        elif line.startswith("    ") and line.strip() and (not start or not lines[start - 1].strip() or marked):
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number].strip()):
                number += 1
            yield Block(
                page, start + 1, "", "\n".join(each[4:] for each in lines[start:number]).rstrip() + "\n", marked
            )
            marked = False
        else:
            marked = line.strip() == RUN or (marked and not line.strip())
            number += 1


def commands(page: Path) -> Iterator[Command]:
    """Yield the commands of the package in a page's shell blocks and in the inline code of its text."""
    name = str(page.relative_to(ROOT))
    in_blocks: set[int] = set()
    for block in blocks(page):
        in_blocks |= set(range(block.line, block.line + len(block.text.splitlines())))
        if block.is_shell:
            yield from _of_lines(name, block.line, block.text)
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if number not in in_blocks:
            for found in _INLINE.finditer(line):
                yield from _of_lines(name, number, found[1].replace("\\|", "|"))


def _of_lines(page: str, first: int, text: str) -> Iterator[Command]:
    whole, start = "", first
    for number, line in enumerate(text.splitlines(), first):
        start = start if whole else number
        if line.rstrip().endswith("\\"):
            whole += line.rstrip()[:-1]
            continue
        if found := _COMMAND.match((whole + line).strip()):
            yield Command(page, start, found[1], tuple(_words(found[2])))
        whole = ""


def _words(text: str) -> list[str]:
    """Return the arguments up to the first operator of the shell, without a trailing comment."""
    found = []
    for word in shlex.split(text, comments=True):
        if word in _OPERATORS:
            break
        found.append(word)
    return found
