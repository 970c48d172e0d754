"""Columns of the preference dataset: those of PsychoCounsel-Preference in their order, then our own."""

import pyarrow as pa

from psychocounsel.annotation.pairs.merged_votes import RatedReply, tier
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.steps.tables import Row

SPLITS = ("train", "test")
SIDES = ("chosen", "rejected")

_FROM_SPEECH = ("topic", "risk", "source", "license", "language")


def dataset_schema(fractions: bool) -> pa.Schema:
    """Return the schema. Ratings are float64 if votes were averaged (`fractions`), otherwise int64 as in the released dataset."""
    text = ("question", *SIDES, *(f"{side}_model" for side in SIDES))
    ratings = [f"{side}_{name}_rating" for side in SIDES for name in PRINCIPLES]
    return pa.schema(
        [
            ("ID", pa.string()),
            ("prefID", pa.int64()),
            *((name, pa.string()) for name in text),
            *((name, pa.float64() if fractions else pa.int64()) for name in ratings),
            ("chosen_probability", pa.float64()),
            ("agreement", pa.string()),
            *((name, pa.string()) for name in _FROM_SPEECH),
        ]
    )


def pair_row(
    speech: Row, pair: tuple[RatedReply, RatedReply], ratings: tuple[dict[str, float], dict[str, float]], chosen: float
) -> Row:
    """Return a dataset row without `prefID`.

    `pair` and `ratings` hold the chosen reply first; `chosen` is its probability.
    """
    row: Row = {"ID": speech["speech"], "question": speech["text"]}
    for side, reply, rated in zip(SIDES, pair, ratings, strict=True):
        row |= {side: reply.row["text"], f"{side}_model": reply.row["model"] or reply.row["writer"]}
        row |= {f"{side}_{name}_rating": rated[name] for name in PRINCIPLES}
    row |= {"chosen_probability": chosen, "agreement": tier(chosen)}
    return row | {name: speech[name] for name in _FROM_SPEECH}
