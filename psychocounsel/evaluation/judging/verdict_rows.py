"""Rows of verdicts.parquet: one for each call of a judge about two replies, with the verdict or the reason for none."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from psychocounsel.asking.answers import Outcome
from psychocounsel.asking.language_model import FAILED, REFUSED, TEXT
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.evaluation.judging.pair_prompt import Verdict
from psychocounsel.steps.tables import Row

FORWARD, BACKWARD = "forward", "backward"  # the evaluated setting's reply is shown first, or second
OTHER_MODEL = "other_model"  # the server named another model than in most of its answers
EQUAL = "equal"  # both replies are the same text: a tie without a call
_SIDES = [(side, kind) for side in ("first", "second") for kind in ("setting", "seed", "reply")]
SCHEMA = pa.schema(
    [
        pa.field("speech", pa.string(), nullable=False),
        pa.field("length_limit", pa.int64()),
        pa.field("sample", pa.int64(), nullable=False),
        *(
            pa.field(f"{side}_{kind}", pa.int64() if kind == "seed" else pa.string(), nullable=False)
            for side, kind in _SIDES
        ),
        pa.field("judge", pa.string(), nullable=False),
        pa.field("model", pa.string()),
        pa.field("order", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("overall", pa.int64()),
        *(pa.field(name, pa.int64()) for name in PRINCIPLES),
        pa.field("first_score", pa.float64()),
        pa.field("second_score", pa.float64()),
        pa.field("attempts", pa.int64()),
        pa.field("prompt_version", pa.string()),
    ]
)


@dataclass(frozen=True)
class ReplyPair:
    """Two replies to one speech [rows of replies.parquet].

    `first` was written by the setting under evaluation, `second` by its opponent.
    """

    speech: Row
    first: Row
    second: Row


def verdict_row(
    pair: ReplyPair, judge: str, order: str, outcome: Outcome[Verdict | None] | str | None, version: str | None
) -> Row:
    """Return the row of a call.

    Args:
        pair: the two replies.
        judge: the judge's name.
        order: `forward` or `backward`. Verdicts are written from the side of `pair.first`, whichever reply was shown first.
        outcome: the judge's answer; a word if the judge was not called; None if no answer has arrived yet.
        version: the prompt's version; None for a judge that reads no prompt. Such a judge gives no verdict on principles,
            so the principles of equal replies stay empty, too.
    """
    row: Row = dict.fromkeys(SCHEMA.names)
    row |= {"speech": pair.speech["speech"], "judge": judge, "order": order, "prompt_version": version}
    row |= {name: pair.first[name] for name in ("length_limit", "sample")}
    for side, reply in (("first", pair.first), ("second", pair.second)):
        row |= {f"{side}_{kind}": reply[kind] for kind in ("setting", "seed", "reply")}
    if outcome is None:
        return row | {"outcome": FAILED}
    if isinstance(outcome, str):
        said = ("overall", *PRINCIPLES) if version else ("overall",)
        ties = dict.fromkeys(said, 0) if outcome == EQUAL else {}
        return row | {"outcome": outcome, **ties}
    row |= {"outcome": outcome.outcome, "model": outcome.answer.model, "attempts": outcome.attempts}
    if outcome.outcome != TEXT:
        return row
    if outcome.value is None:
        return row | {"outcome": REFUSED}
    sign = 1 if order == FORWARD else -1
    verdict = outcome.value
    row |= {"overall": sign * verdict.overall, **{name: sign * side for name, side in verdict.principles.items()}}
    if verdict.scores is not None:
        row |= dict(zip(("first_score", "second_score"), verdict.scores, strict=True))
    return row


def without_verdict(row: Row, outcome: str) -> Row:
    """Return the row with another outcome and without its verdict."""
    told = ("overall", *PRINCIPLES, "first_score", "second_score")
    return row | dict.fromkeys(told) | {"outcome": outcome}
