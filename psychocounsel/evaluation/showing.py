"""The end of an evaluation's output: its conclusions, `tables.txt` with all tables, and `samples.md` with replies to read."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from psychocounsel.asking.language_model import TEXT
from psychocounsel.blocks.conclusions import Conclusion, recorded, verdict_lines
from psychocounsel.blocks.kinds import Block
from psychocounsel.blocks.markdown import escaped, quotation
from psychocounsel.blocks.terminal import encodable, terminal_lines
from psychocounsel.rundir.paths import EvaluationDir, RunDir
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import Row, by_speech, joined
from psychocounsel.storage.files import write_atomically, write_json

# The last lines, and the tables


def end_figures(
    context: StepContext[EvaluationDir],
    figures: Mapping[str, Any],
    conclusions: Sequence[Conclusion],
    blocks: Sequence[Block],
    metrics: Mapping[str, float],
) -> dict[str, Any]:
    """Write figures.json, show the result, and return the record of the step that computed the figures."""
    write_json(context.files.figures, figures)
    show_result(context.config, context.files.path, context.say, conclusions, blocks)
    return {"metrics": {**metrics}, "verdicts": recorded(conclusions)}


def show_result(
    config: DictConfig,
    folder: Path,
    say: Callable[[str], None],
    conclusions: Sequence[Conclusion],
    blocks: Sequence[Block],
) -> None:
    """Write the tables of `blocks` to `tables.txt` in `folder`, and print the conclusions, or the tables as well.

    Without conclusions, the tables are printed. If models replied, the page of replies is written, and a line names it.
    """
    tables = write_tables(folder, blocks)
    if config.verbose or not conclusions:
        cautions = {encodable(f"warning: {line}") for conclusion in conclusions for line in conclusion.cautions}
        for line in tables:
            if line not in cautions:  # they stand below the conclusions
                say(line)
    for line in dict.fromkeys(verdict_lines({"verdicts": recorded(conclusions)})):  # verdicts share warnings
        say(encodable(line))
    if missing := dict.fromkeys(need for conclusion in conclusions for need in conclusion.missing):
        say("to be sure:")
        for need in missing:
            say(encodable(f"  {need}"))
    for line in [*write_samples(folder), *(tables_line(config, folder) if conclusions else ())]:
        say(line)


def write_tables(folder: Path, blocks: Sequence[Block]) -> list[str]:
    """Write the lines of all `blocks` to `tables.txt` in `folder`, and return them."""
    lines = [*terminal_lines(blocks)]
    write_atomically(RunDir(folder).tables, "\n".join(lines).strip() + "\n")
    return lines


def tables_line(config: DictConfig, folder: Path) -> list[str]:
    """Return the line that names the file of all tables; [] if they are printed."""
    return [] if config.verbose else [f"all tables: {RunDir(folder).tables} (verbose=true prints them here)"]


# `RUN/samples.md`: replies that people should read before they believe a figure

_MOST = 20  # speeches or clients on the page, spread over all of them
_REPLY = ("contestant", "sample", "outcome", "text")


def write_samples(folder: Path) -> list[str]:
    """Write the page of the evaluation in `folder`, and return the line that names it; [] if no model replied in it."""
    files = EvaluationDir(folder)
    groups: list[tuple[Row | None, list[Row]]]
    if files.replies.exists():
        what, unit, replies = "speeches", "reply", by_speech(files.replies, _REPLY)
        groups = [(speech, rows) for (speech,), rows in joined(by_speech(files.speeches, ["messages"]), replies)]
    elif files.session_turns.exists():
        what, unit = "clients", "session"
        groups = [(None, rows) for _, rows in by_speech(files.session_turns, (*_REPLY, "client"))]
    else:
        return []
    shown = [groups[place * len(groups) // _MOST] for place in range(_MOST)] if len(groups) > _MOST else groups
    heading = f"# {len(shown)} of {len(groups):,} {what}, with the first {unit} of each contestant"
    pages = ["\n\n".join(_page(speech, rows)) for speech, rows in shown]
    write_atomically(files.samples, "\n\n---\n\n".join([heading, *pages]) + "\n")
    return [f"read before you believe a figure: {files.samples} ({len(shown)} of {len(groups):,} {what})"]


def _page(speech: Row | None, rows: list[Row]) -> Iterator[str]:
    """Yield as Markdown a client's speech with the first reply of each contestant, or without `speech` their first sessions."""
    for message in json.loads(speech["messages"]) if speech else ():
        yield quotation(message["content"], f"**{message['role']}**: ")
    for name, grouped in groupby(rows, itemgetter("contestant")):
        yield f"## {escaped(name)}"
        theirs = list(grouped)
        for row in theirs[:1] if speech else theirs:
            if row["sample"] == theirs[0]["sample"]:
                yield from _turn(row)


def _turn(row: Row) -> Iterator[str]:
    outcome = "" if row["outcome"] == TEXT else f" ({row['outcome']})"
    if "client" in row:
        failed = row["client"] is None  # then the contestant was not asked
        yield quotation(row["client"] or "", f"**user{outcome if failed else ''}**: ")
        if failed:
            return
    yield quotation(row["text"] or "", f"**assistant{outcome}**: ")
