"""Finished conversations as rows of session_turns.parquet, so that judges can rate them like sessions."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from psychocounsel.asking.language_model import EMPTY, TEXT
from psychocounsel.evaluation.session.conversation import SCHEMA
from psychocounsel.evaluation.session.transcripts.transcript_files import Transcript, read_transcripts
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.context import StepContext
from psychocounsel.steps.tables import Row, written

NAME = "transcripts"


def chosen_transcripts(config: DictConfig) -> list[Transcript]:
    """Return at most `limit` conversations, ordered by id. The ids are hashes, so the first ones are a random sample.

    Raises:
        UserError: if a file is wrong; the message names the line.
    """
    found = read_transcripts(Path(config.evaluation.transcripts))
    return sorted(found, key=lambda each: each.id)[: config.limit]


def transcript_notes(config: DictConfig) -> list[str]:
    """Return lines about these conversations that every output shows."""
    return [
        f"finished conversations from {config.evaluation.transcripts}: the expected action at each turn is unknown, so "
        "figures that depend on it are left out"
    ]


def write_transcripts(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Write session_turns.parquet; returns the step's figures.

    Raises:
        UserError: if a file is wrong; the message names the line.
    """
    chosen = chosen_transcripts(context.config)
    outcomes: dict[str, Counter[str]] = {}
    with written(context.files.session_turns, SCHEMA) as add:
        for row in _rows(chosen):
            add(row)
            outcomes.setdefault(row["setting"], Counter())[row["outcome"]] += 1
    replies = sum(count.total() for count in outcomes.values())
    personas = len({each.persona for each in chosen})
    context.say(f"{len(chosen):,} conversations of {personas:,} clients, {replies:,} replies")
    counted = {name: dict(sorted(counts.items())) for name, counts in outcomes.items()}
    return {"personas": personas, "sessions": len(chosen), "replies": replies, "outcomes": counted, "failed": 0}


def _rows(transcripts: list[Transcript]) -> Iterator[Row]:
    """Yield the rows, ordered by `speech`, a hash of the persona; `sample` numbers a setting's conversations with a persona."""
    samples = Counter[tuple[str, str]]()
    for each in sorted(transcripts, key=lambda one: (_hash(one.persona), one.setting, one.id)):
        sample = samples[each.persona, each.setting]
        samples[each.persona, each.setting] += 1
        head: Row = dict.fromkeys(SCHEMA.names)
        head |= {"speech": _hash(each.persona), "persona": each.persona, "pattern": NAME}
        head |= {"setting": each.setting, "contestant": each.setting, "seed": 0, "sample": sample}
        for turn, (client, reply) in enumerate(each.turns):
            said = {"text": reply, "reply": _hash(reply), "outcome": TEXT} if reply else {"outcome": EMPTY}
            yield head | {"turn": turn, "client": client, "ends": turn == len(each.turns) - 1} | said


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
