"""The audit of the dataset in its card: how well the labels are predicted without the client's speech."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from psychocounsel.data.rows import parse_row
from psychocounsel.errors import UserError
from psychocounsel.evaluation.audit.settings import AuditOptions
from psychocounsel.steps.context import Bar

_MOST = 10_000  # pairs; rows are sorted by a hash of the speech, so the first ones are a random sample of clients


def audit_lines(paths: list[Path], bar: Bar) -> list[str]:
    """Return the table of `psychocounsel.audit` for the first 10,000 pairs, or one line that says why the audit is missing."""
    from psychocounsel.evaluation.audit.auditing import measure
    from psychocounsel.evaluation.audit.table import lines_of

    try:
        examples = [parse_row(row, f"row {number}") for number, row in enumerate(islice(_rows(paths), _MOST), 1)]
        if not examples:
            return ["There are no pairs to audit."]
        found = measure(examples, lambda: examples, {}, _settings(), bar)
    except UserError as error:
        return [f"Not audited: {error}."]
    assert found is not None
    return "\n".join(lines_of("this dataset", None, found.figures)).strip().split("\n")


def is_partial(rows: int) -> bool:
    """Return True if the audit does not cover all pairs."""
    return rows > _MOST


def _rows(paths: list[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                yield from batch.to_pylist()


def _settings() -> DictConfig:
    given = {"audit": OmegaConf.structured(AuditOptions), "data": {"rating_range": [1.0, 5.0], "system_prompt": None}}
    return OmegaConf.create(given)
