"""Writes the tables of the step: speeches, dropped rows, and speeches to check by hand."""

import heapq
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from psychocounsel.annotation.speeches.identifiers import STATEMENT
from psychocounsel.annotation.speeches.speech_choice import NEAR, REASONS, SAME, STAYS, Choice, share_of
from psychocounsel.counsel.risk_rules import STATED_RISKS, SpeechRisk, urgency
from psychocounsel.steps.tables import Row, Sorter, rows_of, written
from psychocounsel.storage.files import write_atomically

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
    fell: dict[str, Counter[str]] = {}
    counts = {name: Counter[Any]() for name in _COUNTED}
    sample: list[tuple[float, str, Row]] = []
    most_urgent = urgencies.copy()
    np.minimum.at(most_urgent, choice.first, urgencies)
    with Sorter(path, ()) as sorter, written(path, SCHEMA) as add:
        for number, row in enumerate(rows_of(draft, DRAFT.names)):
            standing = int(choice.standing[number])
            if standing != STAYS:
                reason = REASONS[standing]
                fell.setdefault(row["source"], Counter())[reason] += 1
                is_double = standing in (SAME, NEAR)  # removal needs the ids of duplicates
                own, of = (row["speech"], f"{int(ids[choice.first[number]]):016x}") if is_double else (None, None)
                drop({"source": row["source"], "row": row["row"], "reason": reason, "speech": own, "of": of})
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
    return fell, counts, [row for *_, row in sorted(sample, reverse=True)]


def _raise_risk(row: Row, most_urgent: int) -> None:
    """Give a speech the risk of a duplicate if that is more urgent than its own."""
    if most_urgent < urgency(row["risk"], row["risk_source"]):
        risk = SpeechRisk(*STATED_RISKS[most_urgent])
        row |= {"risk": risk.kind, "risk_source": risk.source, "crisis": risk.crisis}


def write_identifier_sample(path: Path, rows: list[Row]) -> None:
    """Write speeches with placeholders to a file that only the user can read."""
    parts = [_ABOUT, *(f"\n## {row['speech']} ({row['identifiers']} placeholders)\n\n{row['text']}\n" for row in rows)]
    write_atomically(path, "".join(parts), mode=0o600)
