"""Reads and cleans the rows of all sources into a draft table on disk, with the sketches by which speeches are compared."""

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
from psychocounsel.annotation.speeches.speech_cleaning import CleanSpeech, cleaned
from psychocounsel.annotation.speeches.speech_rows import BadRow, SpeechRow, read_speeches
from psychocounsel.annotation.speeches.speech_tables import DRAFT
from psychocounsel.counsel.risk_rules import urgency
from psychocounsel.data.selection.near import Sketches, SketchFolder, sketches
from psychocounsel.errors import UserError
from psychocounsel.steps.tables import Row, written

_ROWS = 250  # cleaned at a time
_ALONE = 2000  # rows after which other processes help
BAD = "bad row"

_Result = tuple[SpeechRow | BadRow, CleanSpeech | str]


@dataclass
class Draft:
    """Cleaned speeches in the order of sources, numbered from 0; texts are on disk alone.

    `ids`: uint64[speeches]. `urgencies`: uint8[speeches], of each risk (`risk_rules.urgency`). `fell`: of each source, the rows
    that are not in the draft, by reason. `read`: rows of each source. `bad`: what was wrong with bad rows. `placeholders`: of
    each kind.
    """

    table: Path
    ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    urgencies: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint8))
    sketches: Sketches = field(default_factory=lambda: sketches([]))
    read: Counter[str] = field(default_factory=Counter)
    fell: dict[str, Counter[str]] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)
    placeholders: Counter[str] = field(default_factory=Counter)


def make_draft(settings: Speeches, folder: Path, drop: Callable[[Row], None], bar: Callable[..., Any]) -> Draft:
    """Read and clean all sources, within `folder`. `drop` gets a row of dropped_speeches.parquet for each that falls.

    Raises:
        UserError: for a source that cannot be read, or a bad row where `bad_rows` is `refuse`.
    """
    ids, urgencies, sketched = array("Q"), array("B"), SketchFolder(folder)
    draft = Draft(folder / "draft.parquet")
    with written(draft.table, DRAFT) as add:
        for source in settings.all_sources():
            draft.fell[source.title] = Counter()
            texts: list[str] = []
            rows = read_speeches(source, folder / "copies")
            for row, outcome in bar(_outcomes(rows, settings), f"speeches of {source.title}"):
                draft.read[source.title] += 1
                if isinstance(outcome, CleanSpeech):
                    add(outcome.columns)
                    draft.placeholders += outcome.kinds
                    ids.append(number_of(outcome.columns["speech"]))
                    urgencies.append(urgency(outcome.columns["risk"], outcome.columns["risk_source"]))
                    texts.append(outcome.columns["text"])
                    if len(texts) == _ROWS:
                        sketched.add(texts)
                        texts.clear()
                    continue
                draft.fell[source.title][outcome] += 1
                drop({"source": row.source, "row": row.row, "reason": outcome, "speech": None, "of": None})
                if isinstance(row, BadRow):
                    draft.bad.append(row.reason)
            sketched.add(texts)
    draft.sketches, draft.ids = sketched.close(), np.frombuffer(ids, np.uint64)
    draft.urgencies = np.frombuffer(urgencies, np.uint8)
    return draft


def _outcomes(rows: Iterable[SpeechRow | BadRow], settings: Speeches) -> Iterator[_Result]:
    """Each row with its speech or the reason why it falls, in order; of many rows other processes clean some."""
    rows = iter(rows)
    for row in islice(rows, _ALONE):
        yield _outcome(row, settings)
    ahead = list(islice(rows, _ROWS))
    if not ahead:
        return
    processes = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(processes, get_context("spawn"), _end_with_parent) as pool:
        waiting: deque[Future[list[_Result]]] = deque()
        while ahead or waiting:
            while ahead and len(waiting) < 2 * processes:
                waiting.append(pool.submit(_outcomes_of, ahead, settings))
                ahead = list(islice(rows, _ROWS))
            yield from waiting.popleft().result()


def _end_with_parent() -> None:
    """Let this process end when the one that started it is gone: killed, it cannot say so."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _outcomes_of(rows: list[SpeechRow | BadRow], settings: Speeches) -> list[_Result]:
    return [_outcome(row, settings) for row in rows]


def _outcome(row: SpeechRow | BadRow, settings: Speeches) -> _Result:
    if not isinstance(row, BadRow):
        return row, cleaned(row, settings)
    if settings.bad_rows == "refuse":
        raise UserError(f"{row.reason}; speeches.bad_rows=drop leaves such rows out")
    return row, BAD
