"""Lines of a journal: `{"key": ..., "cost": ..., "about": ..., "answer": ...}`; cost and about may be missing."""

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
    """Answer (JSON) with its key, its cost and the subject of its request."""

    key: str
    answer: Any
    about: str | None = None
    cost: float = 0.0

    @classmethod
    def of(cls, content: bytes) -> "Line":
        """Parse a line.

        Raises:
            ValueError: if it is not a line of a journal.
        """
        try:
            entry = json.loads(content)
            return cls(entry["key"], entry["answer"], entry.get("about"), entry.get("cost", 0.0))
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError("not a line of a journal") from error

    def written(self) -> bytes:
        """Return the line as bytes, with its newline; a zero cost and a missing `about` are omitted."""
        entry: dict[str, Any] = {"key": self.key} | ({"cost": self.cost} if self.cost else {})
        entry |= {} if self.about is None else {"about": self.about}
        return json.dumps(entry | {"answer": self.answer}).encode() + b"\n"


def lines_of(path: Path) -> Iterator[tuple[list[str], list[int], float]]:
    """Yield, block by block, the keys of a file's lines, the byte offsets of the lines, and their total cost.

    An incomplete last line is skipped, because its writer was killed. Answers are not parsed.

    Raises:
        UserError: for a line that does not begin and end like a journal line.
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
                        f"{path}: line {number} is damaged: remove that line, and its request is sent again"
                    )
                keys.append(found[1].decode())
                offsets.append(start)
                cost += float(found[2] or 0)
                start += len(line) + 1
            yield keys, offsets, cost
