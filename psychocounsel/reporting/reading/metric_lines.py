"""Reader of `metrics.jsonl` that skips damaged lines."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.rundir.paths import RunDir

Line = dict[str, Any]


@dataclass(frozen=True)
class MetricLines:
    """The complete lines in the file's order, and the number of damaged ones. `is_cut`: the last line is half-written."""

    lines: list[Line]
    damaged: int = 0
    is_cut: bool = False

    @property
    def problems(self) -> list[str]:
        name = RunDir(Path()).metrics.name
        earlier = self.damaged - self.is_cut
        found = [f"{name}: the last line is half-written and was skipped"] if self.is_cut else []
        if earlier:
            found.append(f"{name}: {earlier} damaged {'line was' if earlier == 1 else 'lines were'} skipped")
        return found


def metric_lines(run_dir: Path) -> MetricLines:
    """Return the lines of a run's metrics file; no lines if the file does not exist."""
    try:
        content = RunDir(run_dir).metrics.read_bytes()
    except FileNotFoundError:
        return MetricLines([])
    texts = [text for text in content.split(b"\n") if text.strip()]
    is_open = not content.endswith(b"\n")  # a kill can cut the last line short
    whole = _all_at_once(texts)
    if whole is not None:
        return MetricLines(whole)
    found = [_line(text) for text in texts]
    lines = [line for line in found if line is not None]
    return MetricLines(lines, len(found) - len(lines), is_open and bool(found) and found[-1] is None)


def _all_at_once(texts: list[bytes]) -> list[Line] | None:
    """Parse all lines by one call, which is twice as fast and lets them share keys. Return None if one is damaged."""
    try:
        found = json.loads(b"[" + b",".join(texts) + b"]")
    except (ValueError, RecursionError):
        return None
    return found if len(found) == len(texts) and all(map(_is_line, found)) else None


def _line(text: bytes) -> Line | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return {sys.intern(key): value for key, value in found.items()} if _is_line(found) else None


def _is_line(found: Any) -> bool:
    return isinstance(found, dict) and isinstance(found.get("step"), int)
