"""Writes the cleaned speeches of all sources to a draft table on disk, with the sketches used to compare them."""

from __future__ import annotations

import os
import threading
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from psychocounsel.annotation.speeches.settings import Speeches
from psychocounsel.annotation.speeches.speech_choice import number_of
from psychocounsel.annotation.speeches.speech_cleaning import CleanedRow, CleanSpeech, cleaned
from psychocounsel.annotation.speeches.speech_rows import BadRow, SpeechRow, read_speeches
from psychocounsel.annotation.speeches.speech_tables import DRAFT
from psychocounsel.counsel.risk_rules import urgency
from psychocounsel.data.selection.near import Sketches, SketchFolder, sketches
from psychocounsel.errors import UserError
from psychocounsel.steps.tables import Row, written

_ROWS = 250  # rows per batch of cleaning
_ALONE = 2000  # rows that this process cleans alone before it starts others
BAD = "bad row"


@dataclass
class Draft:
    """Cleaned speeches, numbered from 0 in the order of sources; only the table on disk holds their texts.

    Attributes:
        ids: uint64[speeches].
        urgencies: uint8[speeches], the urgency of each risk (`risk_rules.urgency`).
        read: number of rows by source.
        fell: for each source, the number of dropped rows by reason.
        bad: what is wrong with each bad row.
        placeholders: number of placeholders by kind.
    """

    table: Path
    ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    urgencies: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint8))
    sketches: Sketches = field(default_factory=lambda: sketches([]))
    read: Counter[str] = field(default_factory=Counter)
    fell: dict[str, Counter[str]] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)
    placeholders: Counter[str] = field(default_factory=Counter)


def make_draft(
    settings: Speeches, rows: Iterable[CleanedRow], folder: Path, drop: Callable[[Row], None], bar: Callable[..., Any]
) -> Draft:
    """Write the speeches among `rows` to a draft in `folder`, in order.

    `drop` is called with a row of dropped_speeches.parquet for each dropped row.

    Raises:
        UserError: if reading `rows` raises it.
    """
    ids, urgencies, sketched = array("Q"), array("B"), SketchFolder(folder)
    draft = Draft(folder / "draft.parquet")
    draft.fell = {source.title: Counter() for source in settings.all_sources()}
    texts: list[str] = []
    with written(draft.table, DRAFT) as add:
        for row in bar(rows, "speeches"):
            draft.read[row.source] += 1
            if isinstance(row.outcome, CleanSpeech):
                columns = row.outcome.columns
                add(columns)
                draft.placeholders += row.outcome.kinds
                ids.append(number_of(columns["speech"]))
                urgencies.append(urgency(columns["risk"], columns["risk_source"]))
                texts.append(columns["text"])
                if len(texts) == _ROWS:
                    sketched.add(texts)
                    texts.clear()
                continue
            draft.fell[row.source][row.outcome] += 1
            drop({"source": row.source, "row": row.row, "reason": row.outcome, "speech": None, "of": None})
            if row.bad is not None:
                draft.bad.append(row.bad)
        sketched.add(texts)
    draft.sketches, draft.ids = sketched.close(), np.frombuffer(ids, np.uint64)
    draft.urgencies = np.frombuffer(urgencies, np.uint8)
    return draft


def rows_of_sources(settings: Speeches, copies: Path) -> Iterator[SpeechRow | BadRow]:
    """Yield the rows of all sources in order. `copies`: see `read_speeches`.

    Raises:
        UserError: if a source cannot be read.
    """
    for source in settings.all_sources():
        yield from read_speeches(source, copies)


def cleaned_rows(rows: Iterable[SpeechRow | BadRow], settings: Speeches) -> Iterator[CleanedRow]:
    """Yield each row with its speech or the reason for dropping it, in order. Other processes help with long inputs.

    Raises:
        UserError: for a bad row if `bad_rows` is `refuse`.
    """
    rows = iter(rows)
    for row in islice(rows, _ALONE):
        yield _cleaned(row, settings)
    ahead = list(islice(rows, _ROWS))
    if not ahead:
        return
    processes = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(processes, get_context("spawn"), _end_with_parent) as pool:
        waiting: deque[Future[list[CleanedRow]]] = deque()
        while ahead or waiting:
            while ahead and len(waiting) < 2 * processes:
                waiting.append(pool.submit(_cleaned_many, ahead, settings))
                ahead = list(islice(rows, _ROWS))
            yield from waiting.popleft().result()


def _end_with_parent() -> None:
    """Exit when the parent process is gone, because a killed parent cannot stop its children."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _cleaned_many(rows: list[SpeechRow | BadRow], settings: Speeches) -> list[CleanedRow]:
    return [_cleaned(row, settings) for row in rows]


def _cleaned(row: SpeechRow | BadRow, settings: Speeches) -> CleanedRow:
    if not isinstance(row, BadRow):
        return CleanedRow(row.source, row.row, cleaned(row, settings))
    if settings.bad_rows == "refuse":
        raise UserError(f"{row.reason}; speeches.bad_rows=drop skips such rows")
    return CleanedRow(row.source, row.row, BAD, row.reason)
