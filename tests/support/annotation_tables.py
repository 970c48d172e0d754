"""Writers of the tables of an annotate directory from given rows, and a StepContext for running a step on them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf

from psychocounsel.annotation.scores.votes import VOTES
from psychocounsel.annotation.settings import PairRules, ScoresConfig
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.steps.course import StepContext

Row = dict[str, Any]

_TEXT, _NUMBER = pa.string(), pa.int64()
SPEECHES = pa.schema(
    [
        *((name, _TEXT) for name in ("speech", "text", "source", "row", "license", "language", "topic", "fine_topic")),
        *((name, _TEXT) for name in ("risk", "risk_source")),
        ("crisis", pa.bool_()),
        ("split", _TEXT),
        ("identifiers", _NUMBER),
    ]
)
REPLIES = pa.schema(
    [
        ("speech", _TEXT),
        ("number", _NUMBER),
        *((name, _TEXT) for name in ("reply", "writer", "model", "text", "outcome")),
        *((name, _NUMBER) for name in ("prompt_tokens", "completion_tokens")),
        *((name, _TEXT) for name in ("prompt_version", "terms")),
    ]
)


def speech(identity: str, text: str = "", **more: Any) -> Row:
    known: Row = {"text": text or f"I am client {identity}.", "source": "test", "row": identity, "license": "cc0-1.0"}
    known |= {"language": "en", "risk": "none", "risk_source": "column", "crisis": False, "split": "train"}
    return {"speech": identity, **known, "identifiers": 0, **more}


def reply(of: str, number: int, text: str | None, **more: Any) -> Row:
    known: Row = {"reply": text and f"{of}-{text}", "writer": f"writer-{number}", "outcome": "text" if text else "cut"}
    return {"speech": of, "number": number, "text": text, **known, "prompt_version": "p", **more}


def vote(of: str, about: str, ratings: Sequence[int | None] | None, annotator: str = "a", **more: Any) -> Row:
    """Return a vote with `ratings` in the order of PRINCIPLES, or a refused vote if they are None."""
    known: Row = {"vote": 0, "repeat": 0, "joint": False, "attempts": 1, "outcome": "rated" if ratings else "refused"}
    numbers = dict(zip((f"{name}_rating" for name in PRINCIPLES), ratings or [None] * 7, strict=True))
    return {"speech": of, "reply": about, "annotator": annotator, **known, **numbers, **more}


def annotation_dir(path: Path, speeches: list[Row], replies: list[Row], votes: list[Row]) -> AnnotationDir:
    """Write the three tables. Rows are sorted by speech; rows of one speech keep their order."""
    files = AnnotationDir(path)
    for file, rows, schema in (
        (files.speeches, speeches, SPEECHES),
        (files.replies, replies, REPLIES),
        (files.votes, votes, VOTES),
    ):
        ordered = sorted(rows, key=lambda row: row["speech"])
        pq.write_table(pa.Table.from_pylist(ordered, schema), file, row_group_size=7)
    return files


def context(files: AnnotationDir, said: list[str] | None = None, **sections: Any) -> StepContext[AnnotationDir]:
    """Return a step context. `sections` are sections of conf/annotate.yaml; `scores` and `pairs` get typed defaults."""
    config = OmegaConf.create({"crisis_to_third_parties": False, "replies": {"per_speech": 4}, **sections})
    for name, kind in (("pairs", PairRules), ("scores", ScoresConfig)):
        config[name] = OmegaConf.merge(OmegaConf.structured(kind), sections.get(name, {}))
    return StepContext(config, files, (said if said is not None else []).append, lambda items, what: items)
