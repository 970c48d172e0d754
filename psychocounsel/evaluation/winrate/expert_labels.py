"""Experts' labels of pairs of replies (the files of `evaluation.experts`), and their agreement with the judges."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psychocounsel.data.selection.shared_text import normalised
from psychocounsel.data.sources import StandardSource, read_rows
from psychocounsel.errors import UserError
from psychocounsel.evaluation.contestants.evaluation_speeches import speech_id
from psychocounsel.evaluation.contestants.reply_file import messages_of
from psychocounsel.evaluation.statistics.judge_agreement import Agreement, agreement, labels
from psychocounsel.evaluation.statistics.paired_verdicts import Verdicts
from psychocounsel.evaluation.winrate.verdict_table import Variant

_BETTER = {"a": 1.0, "b": -1.0, "tie": 0.0}
_COLUMNS = ("prompt", "reply_a", "reply_b", "better")

PairKey = tuple[str, str, str]  # ids of the speech and of the two replies


def read_experts(files: Sequence[str]) -> dict[str, dict[PairKey, float]]:
    """Return the labels of pairs by expert: 1 if the first reply of the key is better, -1 if the second is, 0 for a tie.

    The files have the columns prompt, reply_a, reply_b, better (`a`, `b` or `tie`) and optionally expert (the expert's
    name; default: the file's name).

    Raises:
        UserError: if a column is missing or a value is wrong. The message names file and row.
    """
    found: dict[str, dict[PairKey, float]] = {}
    for file in files:
        for where, row in read_rows(StandardSource(), file, "train", None):
            if isinstance(row, UserError):
                raise row
            if lacking := [name for name in _COLUMNS if not row.get(name)]:
                raise UserError(
                    f"evaluation.experts: {where}: {lacking[0]} is missing; the columns are {', '.join(_COLUMNS)}"
                )
            if not all(isinstance(row[name], str) for name in _COLUMNS[1:]):
                raise UserError(f"evaluation.experts: {where}: {', '.join(_COLUMNS[1:])} must be texts")
            if row["better"] not in _BETTER:
                raise UserError(f"evaluation.experts: {where}: better must be a, b or tie")
            prompt = normalised(messages_of(row["prompt"], f"evaluation.experts: {where}"))
            speech, first, second = speech_id(prompt), reply_id(row["reply_a"]), reply_id(row["reply_b"])
            said = found.setdefault(str(row.get("expert") or Path(file).stem), {})
            side = _BETTER[row["better"]]
            said[speech, first, second], said[speech, second, first] = side, -side
    return found


def reply_id(text: str) -> str:
    """Return the id of a reply in the tables."""
    return hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class BesideWinRate:
    """Agreement between the judges of a win rate and the experts on its pairs, over all experts.

    Attributes:
        together: agreement of all judges together; None if no expert compared any of the pairs.
        by_judge: agreement by judge; judges that share no pair with an expert are missing.
    """

    together: Agreement | None
    by_judge: dict[str, Agreement]


def beside_win_rate(
    variant: Variant, verdicts: Verdicts, opponent: int, experts: dict[str, dict[PairKey, float]], options: Any
) -> BesideWinRate:
    """Return the agreement with experts on the pairs of the setting under evaluation (number 0) and `opponent`."""
    said, against = labels(verdicts), verdicts.b == opponent

    def pooled(rows: np.ndarray) -> Agreement:
        theirs = [
            [known.get(key, np.nan) for key, taken in zip(variant.pairs, rows, strict=True) if taken]
            for known in experts.values()
        ]
        again = len(experts)
        labelled = np.array(theirs, np.float64).reshape(-1)
        return agreement(np.tile(said[rows], again), labelled, np.tile(verdicts.prompt[rows], again), **options)

    found = {judge: pooled(against & (verdicts.judge == number)) for number, judge in enumerate(variant.judges)}
    together = pooled(against)
    return BesideWinRate(
        together if together.rows else None, {judge: each for judge, each in found.items() if each.rows}
    )


def agreement_with_experts(
    variant: Variant, verdicts: Verdicts, experts: dict[str, dict[PairKey, float]], options: Any
) -> Iterator[dict[str, Any]]:
    """Yield the agreement of each judge with each expert on the pairs that both compared."""
    said = labels(verdicts)
    for name, known in experts.items():
        theirs = np.array([known.get(key, np.nan) for key in variant.pairs], np.float64)
        for number, judge in enumerate(variant.judges):
            rows = verdicts.judge == number
            both = agreement(said[rows], theirs[rows], verdicts.prompt[rows], **options)
            if both.rows:
                yield {"expert": name, "judge": judge, "agreement": both}
