"""Finished conversations in the place of sessions: the rows of session_turns.parquet, which judges are then asked about."""

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
    """The conversations, at most `limit`: ids are hashes, so the first ones by id are a random choice.

    Raises:
        UserError: naming the line of what is wrong with a file.
    """
    found = read_transcripts(Path(config.evaluation.transcripts))
    return sorted(found, key=lambda each: each.id)[: config.limit]


def transcript_notes(config: DictConfig) -> list[str]:
    """What every output says of these conversations. A line each."""
    return [
        f"finished conversations from {config.evaluation.transcripts}: which action was due at a turn is not known, so "
        "figures that depend on it are left out"
    ]


def write_transcripts(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Write session_turns.parquet; returns the step's figures.

    Raises:
        UserError: naming the line of what is wrong with a file.
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
    """Ordered by `speech`, a hash of the persona; `sample` counts conversations of a persona and a setting."""
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
