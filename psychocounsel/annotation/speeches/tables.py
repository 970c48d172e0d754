"""Tables of the step `speeches`: the draft of cleaned speeches, then the speeches, the dropped rows, and a sample
to check by hand.
"""

from __future__ import annotations

import heapq
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
import pyarrow as pa

from psychocounsel.annotation.speeches.choice import KEPT, NEAR, REASONS, SAME, Choice, share_of
from psychocounsel.annotation.speeches.cleaning import (
    BadRow,
    CleanedRow,
    CleanSpeech,
    SpeechRow,
    cleaned,
    read_speeches,
)
from psychocounsel.annotation.speeches.identifiers import STATEMENT
from psychocounsel.annotation.speeches.settings import Speeches
from psychocounsel.counsel.traits import STATED_RISKS, SpeechRisk, urgency
from psychocounsel.data.near_duplicates import Sketches, SketchFolder, sketches
from psychocounsel.errors import UserError
from psychocounsel.steps.tables import Row, Sorter, rows_of, written
from psychocounsel.storage.files import write_atomically

# The draft: cleaned speeches of all sources, and sketches to compare them

_ROWS = 250  # rows per batch of cleaning
_ALONE = 2000  # rows that this process cleans alone before it starts others
BAD = "bad row"


@dataclass
class Draft:
    """Cleaned speeches, numbered from 0 in the order of sources; only the table on disk holds their texts.

    Attributes:
        ids: uint64[speeches].
        urgencies: uint8[speeches], the urgency of each risk (`traits.urgency`).
        talks: int64[speeches], the number of the first speech of its conversation (`speeches.turns=every`); else its own.
        read: number of rows by source.
        dropped: for each source, the number of dropped rows by reason.
        bad: what is wrong with each bad row.
        placeholders: number of placeholders by kind.
    """

    table: Path
    ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    urgencies: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint8))
    talks: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    sketches: Sketches = field(default_factory=lambda: sketches([]))
    read: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
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
    ids, urgencies, talks, sketched = array("Q"), array("B"), array("q"), SketchFolder(folder)
    before = None  # source and row of the last speech
    draft = Draft(folder / "draft.parquet")
    draft.dropped = {source.title: Counter() for source in settings.all_sources()}
    texts: list[str] = []
    with written(draft.table, DRAFT) as add:
        for row in bar(rows, "speeches"):
            draft.read[row.source] += 1
            if isinstance(row.outcome, CleanSpeech):
                columns = row.outcome.columns
                add(columns)
                draft.placeholders += row.outcome.kinds
                same = settings.turns == "every" and before == (row.source, row.row)
                talks.append(talks[-1] if same else len(talks))
                before = row.source, row.row
                ids.append(int(columns["speech"], 16))
                urgencies.append(urgency(columns["risk"], columns["risk_source"]))
                texts.append(columns["text"])
                if len(texts) == _ROWS:
                    sketched.add(texts)
                    texts.clear()
                continue
            draft.dropped[row.source][row.outcome] += 1
            drop({"source": row.source, "row": row.row, "reason": row.outcome, "speech": None, "of": None})
            if row.bad is not None:
                draft.bad.append(row.bad)
        sketched.add(texts)
    draft.sketches, draft.ids = sketched.close(), np.frombuffer(ids, np.uint64)
    draft.urgencies, draft.talks = np.frombuffer(urgencies, np.uint8), np.frombuffer(talks, np.int64)
    return draft


def rows_of_sources(settings: Speeches, copies: Path) -> Iterator[SpeechRow | BadRow]:
    """Yield the rows of all sources in order. `copies`: see `read_speeches`.

    Raises:
        UserError: if a source cannot be read.
    """
    for source in settings.all_sources():
        yield from read_speeches(source, settings.turns, copies)


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


# Speeches, dropped rows, and speeches to check by hand

_TEXTS = ["speech", "text", "source", "row", "license", "language", "topic", "fine_topic", "risk", "risk_source"]
DRAFT = pa.schema([*((name, pa.string()) for name in _TEXTS), ("crisis", pa.bool_()), ("identifiers", pa.int64())])
SCHEMA = pa.schema([*list(DRAFT)[:-1], pa.field("split", pa.string()), pa.field("identifiers", pa.int64())])
# speech: the id of a duplicate; of: the id of the speech that it duplicates.
DROPPED = pa.schema([(name, pa.string()) for name in ("source", "row", "reason", "speech", "of")])
_COUNTED = ("source", "language", "topic", "fine_topic", "risk", "risk_source", "crisis", "split")

_ABOUT = f"""# Speeches to check by hand

{STATEMENT}

Please look for names, places, dates, workplaces and stories that could identify a person. Remove such a speech by its id:
`remove=FILE`, with one id per line. Only you can read this file; delete it when you are done.
"""


def write_speeches(
    draft: Path,
    choice: Choice,
    ids: np.ndarray,
    urgencies: np.ndarray,
    path: Path,
    drop: Callable[[Row], None],
    shown: int,
) -> tuple[dict[str, Counter[str]], dict[str, Counter[Any]], list[Row]]:
    """Write the speeches that stay, ordered by id; `drop` is called with a row for each of the others.

    A speech gets the most urgent risk stated by its own row or by a duplicate (`urgencies` covers all rows).

    Returns:
        Three values: for each source, the number of dropped speeches by reason; for each column, the counts of its values among
        the speeches that stay; and `shown` of these speeches, drawn at random.
    """
    dropped: dict[str, Counter[str]] = {}
    counts = {name: Counter[Any]() for name in _COUNTED}
    sample: list[tuple[float, str, Row]] = []
    most_urgent = urgencies.copy()
    np.minimum.at(most_urgent, choice.first, urgencies)
    with Sorter(path) as sorter, written(path, SCHEMA) as add:
        for number, row in enumerate(rows_of(draft, DRAFT.names)):
            decision = int(choice.decision[number])
            if decision != KEPT:
                reason = REASONS[decision]
                dropped.setdefault(row["source"], Counter())[reason] += 1
                is_duplicate = decision in (SAME, NEAR)  # removal needs the ids of duplicates
                own, first = (row["speech"], f"{int(ids[choice.first[number]]):016x}") if is_duplicate else (None, None)
                drop({"source": row["source"], "row": row["row"], "reason": reason, "speech": own, "of": first})
                continue
            _raise_risk(row, int(most_urgent[number]))
            row["split"] = "test" if choice.is_test[number] else "train"
            sorter.add(row)
            for name, counter in counts.items():
                counter[row[name]] += 1
            place = (-share_of(int(ids[number]), "shown"), row["speech"], row)
            heapq.heappush(sample, place)
            if len(sample) > shown:
                heapq.heappop(sample)
        for row in sorter.rows():
            add(row)
    return dropped, counts, [row for *_, row in sorted(sample, reverse=True)]


def _raise_risk(row: Row, most_urgent: int) -> None:
    """Give a speech the risk of a duplicate if that is more urgent than its own."""
    if most_urgent < urgency(row["risk"], row["risk_source"]):
        risk = SpeechRisk(*STATED_RISKS[most_urgent])
        row |= {"risk": risk.kind, "risk_source": risk.source, "crisis": risk.crisis}


def write_identifier_sample(path: Path, rows: list[Row]) -> None:
    """Write speeches with placeholders to a file that only the user can read."""
    parts = [_ABOUT, *(f"\n## {row['speech']} ({row['identifiers']} placeholders)\n\n{row['text']}\n" for row in rows)]
    write_atomically(path, "".join(parts), mode=0o600)
