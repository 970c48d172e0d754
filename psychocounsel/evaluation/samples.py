"""`RUN/samples.md`: some replies of all contestants, for people to read before they believe a figure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from psychocounsel.asking.language_model import TEXT
from psychocounsel.metrics.replies import quoted
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.tables import Row, by_speech, joined
from psychocounsel.storage.files import write_atomically

MOST = 20  # speeches or sessions on the page, spread over all of them

_REPLY = ("contestant", "sample", "outcome", "text")


def write_samples(folder: Path) -> list[str]:
    """Write the page of the evaluation in `folder`, and return the line that names it; [] if nobody replied in it."""
    files = EvaluationDir(folder)
    if files.replies.exists():
        what, each, replies = "speeches", "reply", by_speech(files.replies, _REPLY)
        pages = [_page(speech, rows) for (speech,), rows in joined(by_speech(files.speeches, ["messages"]), replies)]
    elif files.session_turns.exists():
        what, each = "sessions", "session"
        pages = [_page(None, rows) for _, rows in by_speech(files.session_turns, (*_REPLY, "client"))]
    else:
        return []
    shown = [pages[place * len(pages) // MOST] for place in range(MOST)] if len(pages) > MOST else pages
    heading = f"# {len(shown)} of {len(pages):,} {what}, with the first {each} of each contestant"
    write_atomically(files.samples, "\n\n---\n\n".join([heading, *shown]) + "\n")
    return [f"read before you believe a figure: {files.samples} ({len(shown)} {what} with their replies)"]


def _page(speech: Row | None, rows: list[Row]) -> str:
    """Return Markdown with a client's speech, and the first reply, or in sessions the first session, of each contestant."""
    turns = json.loads(speech["messages"]) if speech else []
    parts = [_turn(message["role"], message["content"]) for message in turns]
    for name, grouped in groupby(rows, itemgetter("contestant")):
        theirs = list(grouped)
        first = theirs[:1] if speech else [row for row in theirs if row["sample"] == theirs[0]["sample"]]
        parts.append(f"## {name}")
        parts += [part for row in first for part in _reply(row)]
    return "\n\n".join(parts)


def _reply(row: Row) -> Iterator[str]:
    if row.get("client"):
        yield _turn("user", row["client"])
    outcome = "" if row["outcome"] == TEXT else f" ({row['outcome']})"
    yield _turn(f"assistant{outcome}", row["text"] or "")


def _turn(role: str, text: str) -> str:
    return quoted(f"**{role}**: {text}")
