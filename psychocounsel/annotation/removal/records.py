"""Rewrites the records of steps after a removal, with counts of the tables as they are now."""

from typing import Any

import pyarrow.parquet as pq

from psychocounsel.annotation.card.counting import pair_counts
from psychocounsel.annotation.card.step import SPLITS
from psychocounsel.annotation.removal.tombstones import Tombstones
from psychocounsel.annotation.scores.vote_figures import ABOUT, COLUMNS, vote_figures
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.steps.tables import by_speech, joined
from psychocounsel.storage.files import read_mapping, write_json


def renew_records(files: AnnotationDir, tombstones: Tombstones) -> None:
    """Update the records of finished steps: table rows, the number of removed speeches, figures of ratings and pairs.

    All other figures, such as outcomes of replies and dropped rows, stay as they were when the step ran.
    """
    tables = {"speeches": files.speeches, "replies": files.replies, "scores": files.votes}
    renewed = {"scores": _of_votes, "pairs": _of_pairs}
    for step in (*tables, "pairs"):
        record = read_mapping(files.step(step))
        if not record:
            continue
        record["removed_speeches"] = len(tombstones)
        if step in tables and tables[step].exists():
            record["rows"] = int(pq.read_metadata(tables[step]).num_rows)
        if step in renewed:
            record["figures"] = {**record.get("figures", {}), **renewed[step](files, record.get("figures", {}))}
        write_json(files.step(step), record)


def _of_votes(files: AnnotationDir, before: dict[str, Any]) -> dict[str, Any]:
    if not (files.votes.exists() and files.speeches.exists()):
        return {}
    speeches, votes = by_speech(files.speeches, ABOUT), by_speech(files.votes, COLUMNS)
    replies = by_speech(files.replies, ["reply"]) if files.replies.exists() else []
    # From the record, because an annotator that was never asked has no votes.
    annotators = {*before.get("annotators", {}), *before.get("skipped", {})}
    found = (
        (rows[0], [row["reply"] for row in texts if row["reply"] is not None], given)
        for rows, texts, given in joined(speeches, replies, votes)
    )
    return vote_figures(found, sorted(annotators))


def _of_pairs(files: AnnotationDir, before: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for split, name in SPLITS.items():
        counts = pair_counts(files.dataset / name)
        if counts is not None:
            tiers = {tier: counts.agreement[tier] for tier in before.get(split, {}).get("agreement", {})}
            found[split] = {**before.get(split, {}), "pairs": counts.rows, "agreement": tiers}
    return found
