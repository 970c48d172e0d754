"""The tables that the step writes: speeches, what fell, and speeches to check by hand."""

import heapq
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from psychocounsel.annotation.speeches.identifiers import STATEMENT
from psychocounsel.annotation.speeches.speech_choice import NEAR, REASONS, SAME, STAYS, Choice, share_of
from psychocounsel.annotation.tables import Row, Sorter, rows_of, written
from psychocounsel.storage.files import write_atomically

_TEXTS = ["speech", "text", "source", "row", "license", "language", "topic", "fine_topic", "risk", "risk_source"]
DRAFT = pa.schema([*((name, pa.string()) for name in _TEXTS), ("crisis", pa.bool_()), ("identifiers", pa.int64())])
SCHEMA = pa.schema([*list(DRAFT)[:-1], pa.field("split", pa.string()), pa.field("identifiers", pa.int64())])
# speech: the id of a row that is a double; of: the id of the speech that it doubles.
DROPPED = pa.schema([(name, pa.string()) for name in ("source", "row", "reason", "speech", "of")])

_ABOUT = f"""# Speeches to check by hand

{STATEMENT}

Please look for names, places, dates, workplaces and stories by which a person can be known. What you find can be taken out by
its id: `remove=FILE` with one id a line. Only you can read this file; delete it when you are done.
"""


def write_speeches(
    draft: Path, choice: Choice, ids: Mapping[int, str] | Any, path: Path, drop: Callable[[Row], None], shown: int
) -> tuple[dict[str, Counter[str]], dict[str, Counter[Any]], list[Row]]:
    """Write the speeches that stay, ordered by id; `drop` gets a row for each that does not.

    Returns:
        reasons of each source; counts of values by column, of the speeches that stay; and `shown` of these, drawn at random.
    """
    fell: dict[str, Counter[str]] = {}
    counts: dict[str, Counter[Any]] = {
        name: Counter()
        for name in ("source", "language", "topic", "fine_topic", "risk", "risk_source", "crisis", "split")
    }
    sample: list[tuple[float, str, Row]] = []
    with Sorter(path, ()) as sorter, written(path, SCHEMA) as add:
        for number, row in enumerate(rows_of(draft, DRAFT.names)):
            standing = int(choice.standing[number])
            if standing != STAYS:
                reason = REASONS[standing]
                fell.setdefault(row["source"], Counter())[reason] += 1
                is_double = standing in (SAME, NEAR)  # removal needs the id of each
                own, of = (row["speech"], f"{int(ids[choice.first[number]]):016x}") if is_double else (None, None)
                drop({"source": row["source"], "row": row["row"], "reason": reason, "speech": own, "of": of})
                continue
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
    return fell, counts, [row for *_, row in sorted(sample, reverse=True)]


def write_identifier_sample(path: Path, rows: list[Row]) -> None:
    """Write speeches with their placeholders, readable for the user alone."""
    parts = [_ABOUT, *(f"\n## {row['speech']} ({row['identifiers']} placeholders)\n\n{row['text']}\n" for row in rows)]
    write_atomically(path, "".join(parts), mode=0o600)
