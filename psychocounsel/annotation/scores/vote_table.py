"""The table votes.parquet: one row for each vote of an annotator on a reply, with ratings or the reason for their absence."""

from collections.abc import Sequence

import pyarrow as pa

from psychocounsel.annotation.scores.rating_answers import Judgements
from psychocounsel.annotation.scores.rating_asks import RatingCall
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.steps.tables import Row

RATED = "rated"
OUTCOMES = (RATED, "refused", "filtered", "cut", "unparsable", "failed")

RATING_COLUMNS = tuple(f"{name}_rating" for name in PRINCIPLES)  # null in a row with outcome `rated`: not applicable
ORDER = ("reply", "annotator", "repeat", "vote")  # sort order of rows within a speech

VOTES = pa.schema(
    [
        ("speech", pa.string()),
        ("reply", pa.string()),
        ("annotator", pa.string()),
        ("model", pa.string()),  # the name that the server returned
        ("vote", pa.int64()),
        ("repeat", pa.int64()),
        ("joint", pa.bool_()),
        ("position", pa.int64()),  # place among jointly rated replies, from 0
        ("outcome", pa.string()),
        *((column, pa.int64()) for column in RATING_COLUMNS),
        *((f"{name}_reason", pa.string()) for name in PRINCIPLES),
        *((f"{name}_quote", pa.string()) for name in PRINCIPLES),
        ("attempts", pa.int64()),
        ("prompt_version", pa.string()),
    ]
)


def vote_rows(call: RatingCall, outcome: str, judged: Sequence[Judgements] | None, about: Row) -> list[Row]:
    """Return a row for each reply of a call. `judged` holds their ratings in the order shown, if `outcome` is `rated`.

    `about` holds the values common to all rows: `model`, `attempts`, `joint`, `prompt_version`.
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
