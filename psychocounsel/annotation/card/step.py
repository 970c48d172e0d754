"""The step `card` writes the data card `dataset/README.md`: origins, counts, an audit, and the makers' fields."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from psychocounsel import __version__
from psychocounsel.annotation.card.blind_check import audit_lines, is_partial
from psychocounsel.annotation.card.contents import pairs_section
from psychocounsel.annotation.card.counting import PairCounts, counted, pair_counts
from psychocounsel.annotation.card.front_matter import front_matter
from psychocounsel.annotation.card.markdown import escaped, fenced, plain, table
from psychocounsel.annotation.card.origins import (
    DEMONSTRATION,
    identifiers_section,
    is_demonstration,
    licence_section,
    speeches_section,
    votes_section,
    writers_section,
)
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.steps.context import StepContext
from psychocounsel.storage.files import write_atomically

SPLITS = {"train": "train.parquet", "test": "test.parquet"}

_FIELDS = {
    "lawful_basis": "Lawful basis of processing",
    "ethics_approval": "Ethics approval",
    "retention": "Retention, and when the data are deleted",
    "contact": "Contact, also for clients who withdraw",
    "intended_use": "Intended use",
}


def run(context: StepContext[AnnotationDir]) -> dict[str, Any]:
    """Write dataset/README.md from the existing tables; the card says which tables are missing.

    Returns:
        `missing`: the unset keys of `card`. `pairs`: the number of pairs by split.

    Raises:
        UserError: if the dataset does not exist yet, or if a table is damaged.
    """
    files = context.files
    parts = {split: found for split, file in SPLITS.items() if (found := pair_counts(files.dataset / file)) is not None}
    if not parts:
        names = " and no ".join(SPLITS.values())
        raise UserError(f"{files.dataset}: holds no {names}: run the step pairs first (steps=[pairs,card])")
    text = "\n".join(_page(context, parts)) + "\n"
    write_atomically(files.card, text)
    lacking = [name for name in _FIELDS if not context.config.card.get(name)]
    if lacking:
        keys = ", ".join(f"card.{name}" for name in lacking)
        context.say(f"the card lacks {keys}; it lists them as missing until you set them")
    return {"missing": lacking, "pairs": {split: found.rows for split, found in parts.items()}}


def _page(context: StepContext[AnnotationDir], parts: dict[str, PairCounts]) -> Iterator[str]:
    config, files = context.config, context.files
    name = plain(config.card.get("name") or "Counselling preferences")
    rows = sum(each.rows for each in parts.values())
    yield from front_matter(name, _licences(context), _languages(parts), _files(parts), rows, _content(files, parts))
    yield from (f"# {escaped(name)}", "")
    if is_demonstration(files):
        yield from (DEMONSTRATION, "")
    yield f"{rows:,} pairs of replies to counselling clients; the chosen reply was rated higher on seven principles."
    yield f"Made by psychocounsel {__version__}. Not for clinical use."
    yield ""
    yield from _given(config)
    yield from licence_section(context)
    yield from speeches_section(files)
    yield from identifiers_section(files)
    yield from writers_section(files)
    yield from votes_section(context)
    yield from pairs_section(files, parts)
    yield from _audit(context, parts, rows)


def _files(parts: dict[str, PairCounts]) -> dict[str, str]:
    """Return the file of each split with rows, because `datasets` cannot read an empty file."""
    return {split: SPLITS[split] for split, found in parts.items() if found.rows}


def _content(files: AnnotationDir, parts: dict[str, PairCounts]) -> str:
    """Return the sha256 of the files of all splits."""
    digest = hashlib.sha256()
    for split in parts:
        with (files.dataset / SPLITS[split]).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _given(config: Any) -> Iterator[str]:
    yield from ("## Statements of the makers", "")
    values = [(title, config.card.get(name)) for name, title in _FIELDS.items()]
    yield from table(
        ("field", "value"), [(title, value or "missing: not stated by the makers") for title, value in values]
    )


def _audit(context: StepContext[AnnotationDir], parts: dict[str, PairCounts], rows: int) -> Iterator[str]:
    yield from ("## Audit: do the labels need the client?", "")
    if is_partial(rows):
        yield from ("Computed on the first 10,000 pairs; the order of clients is random.", "")
    yield from fenced(audit_lines([context.files.dataset / SPLITS[split] for split in parts], context.bar))


def _licences(context: StepContext[AnnotationDir]) -> list[str | None]:
    """Return the makers' licence if set, else the sources' licences (None: unknown) and the writers' known terms."""
    if context.config.card.get("license"):
        return [str(context.config.card.license)]
    return _of(context.files, "license") + [terms for terms in _terms(context.files) if terms]


def _of(files: AnnotationDir, column: str) -> list[str | None]:
    found = [counted(files.dataset / file, [column]) or Counter() for file in SPLITS.values()]
    return sorted({value for counts in found for (value,) in counts}, key=str)


def _terms(files: AnnotationDir) -> list[str | None]:
    return sorted({value for (value,) in counted(files.replies, ["terms"]) or ()}, key=str)


def _languages(parts: dict[str, PairCounts]) -> list[str]:
    return sorted({str(name) for each in parts.values() for name in each.language if name is not None})
