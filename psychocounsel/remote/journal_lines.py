"""The lines of a journal: `{"key": ..., "cost": ..., "about": ..., "answer": ...}`, of which cost and about may be missing."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError

_BLOCK = 1 << 24  # bytes read at once
_HEAD = re.compile(
    rb'\{"key": "([0-9a-f]{64})", (?:"cost": ([0-9.e+-]+), )?(?:"about": "(?:[^"\\]|\\.)*", )?"answer": .*\}\Z',
    re.DOTALL,
)


@dataclass(frozen=True)
class Line:
    """An answer (JSON) with its key, what it cost and what its request was about."""

    key: str
    answer: Any
    about: str | None = None
    cost: float = 0.0

    @classmethod
    def of(cls, content: bytes) -> "Line":
        """The line that is written so.

        Raises:
            ValueError: if it is none.
        """
        try:
            entry = json.loads(content)
            return cls(entry["key"], entry["answer"], entry.get("about"), entry.get("cost", 0.0))
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError("no line of a journal") from error

    def written(self) -> bytes:
        """How it stands in a file, its end included: optional parts only where they say something."""
        entry: dict[str, Any] = {"key": self.key} | ({"cost": self.cost} if self.cost else {})
        entry |= {} if self.about is None else {"about": self.about}
        return json.dumps(entry | {"answer": self.answer}).encode() + b"\n"


def lines_of(path: Path) -> Iterator[tuple[list[str], list[int], float]]:
    """The keys of the lines of a file, the bytes that they begin at, and what they cost; in parts.

    A last line without its end is left out: a writer was killed there. Answers are not parsed here.

    Raises:
        UserError: for a line that does not begin and end as ours do.
    """
    number, start, rest = 0, 0, b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            *lines, rest = (rest + block).split(b"\n")
            keys, offsets, cost = list[str](), list[int](), 0.0
            for line in lines:
                number += 1
                if (found := _HEAD.match(line)) is None:
                    raise UserError(
                        f"{path}: line {number} is damaged: remove that line, and its request is asked again"
                    )
                keys.append(found[1].decode())
                offsets.append(start)
                cost += float(found[2] or 0)
                start += len(line) + 1
            yield keys, offsets, cost
