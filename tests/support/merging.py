"""Command that generates a journal, or merges it into replies.parquet.

Usage: `python -m tests.support.merging FOLDER ANSWERS make|merge`.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from psychocounsel.annotation import replies
from psychocounsel.asking.answers import Answers
from psychocounsel.asking.language_model import Answer
from psychocounsel.rundir.paths import AnnotationDir
from tests.support.asking import context, member

_SCHEMA = pa.schema({"speech": pa.string(), "text": pa.string(), "language": pa.string(), "crisis": pa.bool_()})
_TOGETHER = 10_000


def make(place: Path, count: int) -> None:
    """Write `count // 2` speeches and a journal with two answers to each."""
    files = AnnotationDir(place)
    with pq.ParquetWriter(files.speeches, _SCHEMA) as writer:
        for start in range(0, count // 2, _TOGETHER):
            numbers = range(start, min(start + _TOGETHER, count // 2))
            columns: list[list[Any]] = [[f"{n:016x}" for n in numbers], [f"Speech {n}." for n in numbers]]
            columns += [["en"] * len(numbers), [False] * len(numbers)]
            writer.write_table(pa.Table.from_arrays([*map(pa.array, columns)], schema=_SCHEMA))
    answers, waiting, given = Answers(files.answers), list[Any](), _context(place)
    for number, (model, ask) in enumerate(replies._asks(given, replies.drawing_of(given)), 1):
        waiting.append((model, ask, 0, Answer("text", f"Reply {number}. {40 * 'word '}", model.name, 50, 40), 0.0))
        if len(waiting) == _TOGETHER or number == count:
            answers.keep(waiting)
            waiting = []


def merge(place: Path) -> dict[str, Any]:
    return replies.run(_context(place))


def _context(place: Path) -> Any:
    pool = [member("http://127.0.0.1:9", f"w{number}") for number in range(3)]
    return context(AnnotationDir(place), pool, replies__per_speech=2)


if __name__ == "__main__":
    if sys.argv[3] == "make":
        make(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        figures = merge(Path(sys.argv[1]))
        print(json.dumps({**figures, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
