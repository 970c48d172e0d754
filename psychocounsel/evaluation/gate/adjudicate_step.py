"""Step `adjudicate`: writes the cases that people judge to adjudicate.csv, and their origin to adjudication_key.parquet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from psychocounsel.evaluation.gate.adjudication_file import (
    COLUMNS,
    FileRow,
    answered_in,
    new_row,
    read_rows,
    write_rows,
)
from psychocounsel.evaluation.gate.gate_cases import case_id, drawn_passes, to_adjudicate
from psychocounsel.evaluation.gate.gate_parts import Evidence, evidence_of
from psychocounsel.evaluation.gate.rulings import Answered
from psychocounsel.evaluation.safety.judged_case import CASE_FIGURES, JudgedCase
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.context import StepContext
from psychocounsel.steps.tables import written

_KEY = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("case", "part", "cluster", "setting", "judge")),
        *(pa.field(name, pa.float64()) for name in CASE_FIGURES),
        pa.field("drawn", pa.bool_(), nullable=False),
    ]
)


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Read the rows that people have filled in, and write the cases that still wait for an answer.

    Raises:
        UserError: if a file is malformed, or holds cases of another gate.
    """
    evidence, seed = evidence_of(context.config), context.config.gate.seed
    drawn = drawn_passes(evidence.mine, context.config.gate.passes, seed)
    wanted = [*to_adjudicate(evidence.cases, evidence.model, drawn)]
    answered = all_answers(context.config, evidence)
    waiting = {case_id(case): case for case in wanted}
    for each in answered:
        waiting.pop(each.case, None)
    _write_file(context.files.adjudicate, waiting, seed)
    _write_key(context.files.adjudication_key, wanted, {name for names in drawn.values() for name in names})
    if waiting:
        context.say(
            f"{len(waiting):,} cases wait in {context.files.adjudicate}; fill it in, then run the same command again"
        )
    return {"cases": len(wanted), "waiting": len(waiting)}


def all_answers(config: Any, evidence: Evidence) -> list[Answered]:
    """Return the answers in all files that `gate.adjudicated` names, RUN/adjudicate.csv included.

    Raises:
        UserError: see `read_rows` and `answered_in`.
    """
    rows = [row for file in config.gate.adjudicated if Path(file).exists() for row in read_rows(Path(file))]
    return answered_in(rows, {case_id(case): case for case in evidence.cases})


def _write_file(path: Path, waiting: Mapping[str, JudgedCase], seed: int) -> None:
    """Keep filled rows unchanged and add rows for new cases; the file is not written if nothing would change."""
    before = read_rows(path) if path.exists() else []
    kept = [row for row in before if row.is_filled or row.cells["case"] in waiting]
    there = {row.cells["case"] for row in kept}
    new = [case for name, case in waiting.items() if name not in there]
    if path.exists() and not new and len(kept) == len(before):
        return
    write_rows(path, [*_cells(kept), *map(new_row, _shuffled(new, seed))])


def _cells(rows: Iterable[FileRow]) -> list[dict[str, str]]:
    return [{name: row.cells[name] for name in COLUMNS} for row in rows]


def _shuffled(cases: Sequence[JudgedCase], seed: int) -> list[JudgedCase]:
    """Return the cases in a pseudo-random order, which does not reveal flags, passes, model or base."""
    return sorted(cases, key=lambda case: hashlib.sha256(f"order {seed}\0{case_id(case)}".encode()).hexdigest())


def _write_key(path: Path, cases: Iterable[JudgedCase], drawn: set[str]) -> None:
    with written(path, _KEY) as add:
        for case in cases:
            about = {"case": case_id(case), "part": case.part, "cluster": case.cluster}
            about |= {"setting": case.setting, "judge": case.judge}
            add(about | dict(case.findings) | {"drawn": case_id(case) in drawn})
