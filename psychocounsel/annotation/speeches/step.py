"""The step `speeches` writes speeches.parquet from the sources, and dropped_speeches.parquet with the dropped rows."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from psychocounsel.annotation.speeches.choice import KEPT, ChoiceRules, choose
from psychocounsel.annotation.speeches.cleaning import finders_of
from psychocounsel.annotation.speeches.identifiers import STATEMENT, Finder, measured_recall, replace_identifiers
from psychocounsel.annotation.speeches.settings import Speeches
from psychocounsel.annotation.speeches.shares import finished_shares, rows_of_shares, share_of_rows, write_share
from psychocounsel.annotation.speeches.tables import (
    DROPPED,
    Draft,
    cleaned_rows,
    make_draft,
    rows_of_sources,
    write_identifier_sample,
    write_speeches,
)
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import written
from psychocounsel.storage.modes import mask_of, restricted

_SHOWN_BAD = 20
_DROPPED = ("bad row", "too short", "too long", "language", "same text", "near duplicate", "limit", "removed")


def run(context: StepContext[AnnotationDir]) -> dict[str, Any]:
    """Read, clean, deduplicate and split the speeches of all sources. The tables are as private as the sources' files.

    A job with a share only cleans its rows. If all shares are cleaned, the job without a share starts from their tables.

    Raises:
        UserError: if a source cannot be read or used, or if no speech is left.
    """
    settings: Speeches = build(context.config, "speeches")
    settings.check()
    if context.shard != (0, 1):
        return _clean_share(context, settings)
    files, pairs = context.files, context.config.pairs
    gone = frozenset(files.removed.read_text().split() if files.removed.exists() else ())
    rules = ChoiceRules(settings.near, settings.split_near, settings.limit, pairs.test_fraction, pairs.split_seed, gone)
    with _work_folder(settings, files) as folder, written(files.dropped_speeches, DROPPED) as drop:
        shares = finished_shares(context.config)
        rows = (
            rows_of_shares(shares) if shares else cleaned_rows(rows_of_sources(settings, folder / "copies"), settings)
        )
        draft = make_draft(settings, rows, folder, drop, context.bar)
        choice = choose(draft.ids, draft.sketches, rules, draft.talks)
        if not (choice.decision == KEPT).any():
            raise UserError(_nothing_left(draft))
        dropped, counts, sample = write_speeches(
            draft.table,
            choice,
            draft.ids,
            draft.urgencies,
            files.speeches,
            drop,
            settings.shown if settings.identifiers else 0,
        )
    for source, reasons in dropped.items():
        draft.dropped[source].update(reasons)
    if sample:
        write_identifier_sample(files.identifier_sample, sample)
    else:
        files.identifier_sample.unlink(missing_ok=True)
    figures = _figures(settings, draft, counts)
    for line in _summary_lines(figures, draft, context):
        context.say(line)
    return figures


@contextmanager
def _work_folder(settings: Speeches, files: AnnotationDir) -> Iterator[Path]:
    """Give a temporary folder in the directory. Files made inside the block are as private as the sources' files."""
    for leftover in files.path.glob(".speeches-*.tmp"):  # left by a killed step, with copies of the sources inside
        shutil.rmtree(leftover)
    with (
        restricted(mask_of(settings.files(), files.path)),
        tempfile.TemporaryDirectory(prefix=".speeches-", suffix=".tmp", dir=files.path) as folder,
    ):
        yield Path(folder)


def _clean_share(context: StepContext[AnnotationDir], settings: Speeches) -> dict[str, Any]:
    index, count = context.shard
    with _work_folder(settings, context.files) as folder:
        rows = share_of_rows(rows_of_sources(settings, folder / "copies"), context.shard)
        figures = write_share(cleaned_rows(rows, settings), context.files.speeches, context.bar)
    context.say(f"share {index + 1} of {count}: {figures['speeches']:,} speeches in {figures['rows']:,} rows")
    return figures


def _nothing_left(draft: Draft) -> str:
    reasons = sum(draft.dropped.values(), Counter[str]())
    dropped = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) or "the sources are empty"
    return (
        f"none of the {draft.read.total()} rows is kept ({dropped}): see speeches.min_characters, speeches.max_characters and "
        "speeches.languages (codes such as en; null: any)"
    )


def _figures(settings: Speeches, draft: Draft, counts: dict[str, Counter[Any]]) -> dict[str, Any]:
    """Return the step's figures. The keys of counts are texts, with `null` for unknown values."""
    plain = {
        name: {"null" if value is None else str(value): count for value, count in counter.most_common()}
        for name, counter in counts.items()
    }
    finders = finders_of(settings)
    return {
        "speeches": counts["source"].total(),
        "sources": {
            source: {"rows": draft.read[source], "kept": counts["source"][source], "fell": dict(dropped)}
            for source, dropped in draft.dropped.items()
        },
        "licenses": {source.title: source.license for source in settings.all_sources()},
        "identifiers": dict(draft.placeholders) if settings.identifiers else None,
        "presidio": len(finders) > 1,
        "planted": _recall(tuple(finders)) if finders else None,
        "crisis": counts["crisis"][True],
        **{f"by_{name}": plain[name] for name in plain if name not in ("source", "crisis")},
    }


@cache
def _recall(finders: tuple[Finder, ...]) -> dict[str, Any]:
    return measured_recall(lambda text: replace_identifiers(text, finders).text)


def _summary_lines(figures: dict[str, Any], draft: Draft, context: StepContext[AnnotationDir]) -> Iterator[str]:
    yield from _table(figures["sources"])
    for reason in draft.bad[:_SHOWN_BAD]:
        yield f"  bad row dropped: {reason}"
    if len(draft.bad) > _SHOWN_BAD:
        yield f"  and {len(draft.bad) - _SHOWN_BAD} more bad rows, all in {context.files.dropped_speeches.name}"
    if figures["planted"] is not None:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(figures["identifiers"].items())) or "none found"
        yield f"identifiers replaced in {draft.read.total():,} rows: {kinds}"
        recalls = ", ".join(f"{kind} {recall['recall']:.0%}" for kind, recall in figures["planted"].items())
        yield f"  share of planted identifiers that the rules find: {recalls}. {STATEMENT}"
        yield f"  speeches to check by hand: {context.files.identifier_sample}"
    splits, risks = figures["by_split"], figures["by_risk_source"]
    yield f"split: {splits.get('train', 0)} train, {splits.get('test', 0)} test"
    yield (
        f"risk: {figures['crisis']} of {figures['speeches']} speeches count as crisis, {risks.get('unknown', 0)} of them because "
        "their risk is unknown"
    )


def _table(sources: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a table with a row for each source: rows read, speeches kept, and rows dropped by reason."""
    reasons = [reason for reason in _DROPPED if any(figures["fell"].get(reason) for figures in sources.values())]
    heads = ["source", "rows", "kept", *reasons]
    lines = [
        [name, figures["rows"], figures["kept"], *(figures["fell"].get(reason, 0) for reason in reasons)]
        for name, figures in sources.items()
    ]
    widths = [max(len(str(line[column])) for line in [heads, *lines]) for column in range(len(heads))]
    for line in [heads, *lines]:
        cells = [
            f"{line[0]:<{widths[0]}}",
            *(f"{cell!s:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        yield "  ".join(cells)
