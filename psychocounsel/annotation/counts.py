"""Counts the tables of an annotate directory in batches, so that no table is in memory as a whole."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from psychocounsel.annotation.settings import SIDES
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.steps.tables import opened

_ROWS = 1 << 16
_LENGTHS = (0, 100, 200, 400, 800, 1600, 3200)  # characters
_GAP = 0.5  # bin width of gaps


def batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield a table in batches, with those of `columns` that it has (None: all of its columns).

    Raises:
        UserError: if the table is damaged.
    """
    with opened(path) as table:
        known = None if columns is None else [name for name in columns if name in table.schema_arrow.names]
        for batch in table.iter_batches(_ROWS, columns=known):
            yield pa.Table.from_batches([batch])


def counted(path: Path, columns: Sequence[str]) -> Counter[tuple[Any, ...]] | None:
    """Return the number of rows with each combination of values of `columns`, or None if the table does not exist.

    A missing column counts as null.
    """
    if not path.exists():
        return None
    counts = Counter[tuple[Any, ...]]()
    for part in batches(path, columns):
        if part.num_columns == 0:
            counts[(None,) * len(columns)] += part.num_rows
            continue
        for row in part.group_by(part.column_names).aggregate([([], "count_all")]).to_pylist():
            counts[tuple(row.get(name) for name in columns)] += row["count_all"]
    return counts


def marginal_counts(counts: Counter[tuple[Any, ...]], place: int) -> Counter[Any]:
    """Return the counts by the column at index `place`."""
    column_counts = Counter[Any]()
    for values, count in counts.items():
        column_counts[values[place]] += count
    return column_counts


@dataclass
class PairCounts:
    """Counts of one split of the dataset.

    Attributes:
        ratings: for each side and principle, the number of replies with each rating, rounded to a whole number.
        gaps: differences of the pairs' mean ratings, by the lower bound of their bin.
        lengths: lengths of question, chosen and rejected, by the lower bound of their bin [characters].
    """

    rows: int = 0
    clients: int = 0
    ratings: dict[tuple[str, str], Counter[int]] = field(default_factory=dict)
    gaps: Counter[float] = field(default_factory=Counter)
    lengths: dict[str, Counter[int]] = field(default_factory=dict)
    agreement: Counter[Any] = field(default_factory=Counter)
    topic: Counter[Any] = field(default_factory=Counter)
    risk: Counter[Any] = field(default_factory=Counter)
    language: Counter[Any] = field(default_factory=Counter)


def pair_counts(path: Path) -> PairCounts | None:
    """Return the counts of train.parquet or test.parquet, or None if the file does not exist."""
    if not path.exists():
        return None
    counts, last = PairCounts(), None
    for part in batches(path):
        counts.rows += part.num_rows
        speeches = part["ID"].to_numpy(zero_copy_only=False)
        counts.clients += int((speeches[1:] != speeches[:-1]).sum()) + int(len(speeches) > 0 and speeches[0] != last)
        last = speeches[-1] if len(speeches) else last
        _add_ratings(counts, part)
        for name in ("question", *SIDES):
            _add(counts.lengths.setdefault(name, Counter()), _binned_lengths(part[name]))
        for name in ("agreement", "topic", "risk", "language"):
            if name in part.column_names:
                getattr(counts, name).update(
                    {entry["values"]: entry["counts"] for entry in pc.value_counts(part[name]).to_pylist()}
                )
    return counts


def _add_ratings(counts: PairCounts, part: pa.Table) -> None:
    means = []
    for side in SIDES:
        columns = [part[f"{side}_{name}_rating"].to_numpy(zero_copy_only=False) for name in PRINCIPLES]
        for name, values in zip(PRINCIPLES, columns, strict=True):
            _add(counts.ratings.setdefault((side, name), Counter()), np.floor(values + 0.5).astype(int))
        means.append(np.mean(columns, axis=0))
    gaps = np.floor((means[0] - means[1]) / _GAP + 1e-6) * _GAP + 0.0  # no -0.0
    _add(counts.gaps, gaps)


def _add(counter: Counter[Any], values: np.ndarray) -> None:
    distinct, counts = np.unique(values, return_counts=True)
    counter.update(dict(zip(distinct.tolist(), counts.tolist(), strict=True)))


def _binned_lengths(texts: pa.ChunkedArray) -> np.ndarray:
    lengths = pc.utf8_length(texts).to_numpy()
    return np.asarray(_LENGTHS)[np.searchsorted(_LENGTHS, lengths, side="right") - 1]


def named(counts: Counter[Any]) -> dict[str, int]:
    """Return the counts by name, the most frequent first; `not given` for None."""
    return {"not given" if name is None else str(name): count for name, count in counts.most_common()}


def in_bins(counts: Counter[Any]) -> dict[str, int]:
    """Return the counts of length bins by bin name, such as `100 to 199`."""
    ends = dict(pairwise(_LENGTHS))
    names = {low: f"{low} to {ends[low] - 1}" if low in ends else f"{low} and more" for low in _LENGTHS}
    return {names[low]: counts[low] for low in _LENGTHS if counts[low]}


def gap_bins(counts: Counter[float]) -> dict[str, int]:
    """Return the counts of gap bins by bin name, such as `1.0 to below 1.5`."""
    return {f"{low:.1f} to below {low + _GAP:.1f}": counts[low] for low in sorted(counts)}
