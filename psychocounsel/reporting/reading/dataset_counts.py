"""Counts of an annotation directory's tables for the dataset section: pairs by gap, topic and risk, and licences."""

from collections import Counter
from pathlib import Path
from typing import Any

from psychocounsel.annotation.card.counting import counted, gap_bins, pair_counts
from psychocounsel.rundir.paths import AnnotationDir

_SPLITS = ("train", "test")


def dataset_counts(path: Path) -> dict[str, Any]:
    """Return counts that the step records lack, taken from the tables that exist.

    Returns:
        pairs: by split: `rows`, `clients`, and the number of pairs by `gap`, `topic`, `risk` and `language`.
        speeches: a list of `source`, `license` (None: unknown), `language`, `count`.
        replies: a list of `writer`, `model`, `terms` (None: unknown), `count`.

    Raises:
        UserError: if a table is damaged.
    """
    files = AnnotationDir(path)
    found = {split: pair_counts(files.dataset / f"{split}.parquet") for split in _SPLITS}
    return {
        "pairs": {
            split: {
                **{"rows": each.rows, "clients": each.clients, "gap": gap_bins(each.gaps)},
                **{name: _named(getattr(each, name)) for name in ("topic", "risk", "language")},
            }
            for split, each in found.items()
            if each is not None
        },
        "speeches": _counts(files.speeches, ("source", "license", "language")),
        "replies": _counts(files.replies, ("writer", "model", "terms")),
    }


def _named(counts: Any) -> dict[str, int]:
    return {"not given" if name is None else str(name): count for name, count in counts.most_common()}


def _counts(path: Path, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    found = counted(path, columns) or Counter[tuple[Any, ...]]()
    rows = sorted(found.items(), key=lambda each: (-each[1], str(each[0])))
    return [{**dict(zip(columns, values, strict=True)), "count": count} for values, count in rows]
