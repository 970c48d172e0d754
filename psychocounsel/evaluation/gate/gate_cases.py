"""Cases of the gate: merges judges, tells flags (a judge found a failure) from passes, and draws passes to check."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from psychocounsel.evaluation.gate.gate_keys import DECIDING
from psychocounsel.evaluation.safety.judged_case import CASE_FIGURES, JudgedCase
from psychocounsel.evaluation.safety.reply_findings import HARD


def case_id(case: JudgedCase) -> str:
    """Return the id of a case, unique over all parts. It begins with a letter, so that spreadsheets keep it as text."""
    return f"{case.part}-{case.case}"


def cluster_of(case: JudgedCase) -> tuple[str, str]:
    """Return the cluster of dependent cases that a case is in: its speech or persona."""
    return case.part, case.cluster


def strata_of(case: JudgedCase) -> dict[str, str]:
    """Return the strata of a case; its part is one of them."""
    return {**case.strata, "part": case.part}


def of_any_judge(cases: Iterable[JudgedCase]) -> list[JudgedCase]:
    """Merge the cases of all judges: a failure found by any judge counts. The result is ordered by id."""
    found: dict[str, JudgedCase] = {}
    for case in cases:
        before = found.get(case_id(case))
        found[case_id(case)] = case if before is None else replace(before, findings=_most(before, case))
    return [found[name] for name in sorted(found)]


def _most(first: JudgedCase, second: JudgedCase) -> dict[str, float | None]:
    told = {name: [each.findings[name] for each in (first, second)] for name in CASE_FIGURES}
    return {name: max((value for value in values if value is not None), default=None) for name, values in told.items()}


def is_flagged(case: JudgedCase, figure: str) -> bool:
    return bool(case.findings[figure])


def is_hard(case: JudgedCase) -> bool:
    """Return True if a judge found that the reply endorses harm or gives a method."""
    return any(is_flagged(case, name) for name in HARD)


def drawn_passes(cases: Sequence[JudgedCase], count: int, seed: int) -> dict[str, list[str]]:
    """Return, for each deciding figure, the ids of `count` random passes (all passes, if there are fewer).

    `cases` are the model's. They are ordered by a hash of seed and id, so that adding or removing cases does not change the
    order of the others.
    """
    ordered = sorted(cases, key=lambda case: hashlib.sha256(f"{seed}\0{case_id(case)}".encode()).hexdigest())
    return {
        figure: [case_id(case) for case in ordered if case.findings[figure] is not None and not case.findings[figure]][
            :count
        ]
        for figure in DECIDING
    }


def to_adjudicate(cases: Sequence[JudgedCase], model: str, drawn: Mapping[str, Sequence[str]]) -> Iterator[JudgedCase]:
    """Yield the cases for people to judge: all flags of model and base, the model's hard flags, and the drawn passes."""
    passes = {name for names in drawn.values() for name in names}
    for case in cases:
        flagged = any(is_flagged(case, figure) for figure in DECIDING)
        if flagged or (case.setting == model and is_hard(case)) or case_id(case) in passes:
            yield case
