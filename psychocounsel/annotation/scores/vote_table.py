"""The table votes.parquet: a row for each rating of a reply by one vote of one annotator, or why there is none."""

from collections.abc import Sequence

import pyarrow as pa

from psychocounsel.annotation.scores.rating_answers import Judgements
from psychocounsel.annotation.scores.rating_asks import RatingCall
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.steps.tables import Row

RATED = "rated"
OUTCOMES = (RATED, "refused", "filtered", "cut", "unparsable", "failed")

RATING_COLUMNS = tuple(f"{name}_rating" for name in PRINCIPLES)  # null in a rated row: the principle is not applicable
ORDER = ("reply", "annotator", "repeat", "vote")  # of rows within a speech

VOTES = pa.schema(
    [
        ("speech", pa.string()),
        ("reply", pa.string()),
        ("annotator", pa.string()),
        ("model", pa.string()),  # as the server called itself
        ("vote", pa.int64()),
        ("repeat", pa.int64()),
        ("joint", pa.bool_()),
        ("position", pa.int64()),  # among jointly rated replies, from 0
        ("outcome", pa.string()),
        *((column, pa.int64()) for column in RATING_COLUMNS),
        *((f"{name}_reason", pa.string()) for name in PRINCIPLES),
        *((f"{name}_quote", pa.string()) for name in PRINCIPLES),
        ("attempts", pa.int64()),
        ("prompt_version", pa.string()),
    ]
)


def vote_rows(call: RatingCall, outcome: str, judged: Sequence[Judgements] | None, about: Row) -> list[Row]:
    """A row for each reply of a call. `judged` holds their ratings as shown, where `outcome` is `rated`.

    `about` holds what all rows share: `model`, `attempts`, `joint`, `prompt_version`.
    """
    assert outcome in OUTCOMES and (judged is not None) == (outcome == RATED)
    rows: list[Row] = []
    for place, (reply, _) in enumerate(call.replies):
        row: Row = dict.fromkeys(VOTES.names)
        row |= {"speech": call.speech["speech"], "reply": reply, "annotator": call.annotator.name}
        row |= {"vote": call.vote, "repeat": call.repeat, "outcome": outcome, **about}
        row["position"] = place if row["joint"] else None
        for name, each in (judged[place] if judged else {}).items():
            row |= {f"{name}_rating": each.rating, f"{name}_reason": each.reason, f"{name}_quote": each.quote}
        rows.append(row)
    return rows
