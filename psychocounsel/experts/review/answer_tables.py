"""Answers that count, with their items, and their tables as text."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.evaluation.gate.adjudication_file import no_formula
from psychocounsel.experts.items.assignment import Shown
from psychocounsel.experts.review.event_log import Event
from psychocounsel.experts.review.rater_progress import RaterProgress
from psychocounsel.storage.files import write_atomically

_PRIVATE = 0o600


@dataclass(frozen=True)
class ItemAnswer:
    """An item with an expert's answer. `history` holds all answers to it; the last one counts."""

    expert: str
    shown: Shown
    item: Any
    history: Sequence[Event]

    @property
    def last(self) -> Event:
        return self.history[-1]


def item_answers(raters: Mapping[str, RaterProgress], items: Mapping[str, Any]) -> Iterator[ItemAnswer]:
    """Yield all answered items of experts who have not withdrawn, in the order shown to them."""
    for expert, rater in raters.items():
        for shown in rater.shown:
            history = rater.answers.get((shown.item, shown.repeat))
            if history and not rater.withdrawn:
                yield ItemAnswer(expert, shown, items[shown.item], history)


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the rows as JSONL."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> str:
    """Return the rows as CSV with a header line. Cells are escaped so that no spreadsheet reads a formula."""
    made = io.StringIO()
    writer = csv.DictWriter(made, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: no_formula(row[name]) for name in columns} for row in rows)
    return made.getvalue()


def write_table(path: Path, text: str) -> None:
    """Write a table that only its owner can read, without fsync, because it can be rebuilt from the log."""
    write_atomically(path, text, durable=False, mode=_PRIVATE)
