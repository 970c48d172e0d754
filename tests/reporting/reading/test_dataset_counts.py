"""Tests of the counts of an annotation directory against its tables, row by row."""

from collections import Counter
from pathlib import Path

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.reporting.reading.dataset_counts import dataset_counts
from tests.support.annotated_dir import annotated, rows_of


def test_pairs_licences_and_terms_are_counted(tmp_path: Path) -> None:
    files = annotated(tmp_path / "made", range(10), license=None)
    found = dataset_counts(files.path)
    for split in ("train", "test"):
        rows = rows_of(files.dataset / f"{split}.parquet")
        counts = found["pairs"][split]
        assert (counts["rows"], counts["clients"]) == (len(rows), len({row["ID"] for row in rows}))
        assert counts["topic"] == dict(Counter(row["topic"] for row in rows))
        means = [
            [sum(row[f"{side}_{name}_rating"] for name in PRINCIPLES) / 7 for side in ("chosen", "rejected")]
            for row in rows
        ]
        bins = Counter(
            f"{low:.1f} to below {low + 0.5:.1f}" for low in ((best - worst) // 0.5 * 0.5 for best, worst in means)
        )
        assert counts["gap"] == dict(bins)
    assert found["speeches"] == [{"source": "test", "license": None, "language": "en", "count": 10}]
    assert {(each["writer"], each["terms"], each["count"]) for each in found["replies"]} == {
        (f"writer-{number}", "apache-2.0", 10) for number in range(3)
    }


def test_what_is_not_there_is_not_counted(tmp_path: Path) -> None:
    assert dataset_counts(tmp_path) == {"pairs": {}, "speeches": [], "replies": []}
