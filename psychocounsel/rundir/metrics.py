"""`metrics.jsonl`: one line a step, whatever happened in between."""

import json
import os
from pathlib import Path
from typing import Any

from psychocounsel.storage.files import write_atomically


class MetricsLog:
    """Appends lines; opening it at a step cuts off the lines after that step, which will be made again."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.earlier = [line for line in read_metrics(path) if line["step"] <= step]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in self.earlier))
        self.file = open(path, "a", 1)

    def write(self, line: dict[str, Any]) -> None:
        self.file.write(json.dumps(line) + "\n")

    def sync(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line that a kill cut short is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
