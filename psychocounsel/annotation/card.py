"""The step `card` writes the data card `dataset/README.md`: origins, counts, an audit, and the makers' fields."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from omegaconf import DictConfig, OmegaConf

from psychocounsel import __version__
from psychocounsel.annotation.counts import PairCounts, counted, gap_bins, in_bins, named, pair_counts
from psychocounsel.annotation.origins import (
    DEMONSTRATION,
    identifiers_section,
    is_demonstration,
    licence_section,
    missing,
    speeches_section,
    votes_section,
    writers_section,
)
from psychocounsel.annotation.settings import SIDES, SPLITS
from psychocounsel.blocks.cells import Titled
from psychocounsel.blocks.markdown import escaped, fenced, histogram, plain, table
from psychocounsel.blocks.terminal import terminal_lines
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.licences import identifier, strictest
from psychocounsel.data.rows import parse_row
from psychocounsel.errors import UserError
from psychocounsel.evaluation.audit.settings import AuditOptions
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.steps.course import Bar, StepContext
from psychocounsel.steps.tables import rows_of
from psychocounsel.storage.files import read_mapping, write_atomically

# The step

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
    parts = {
        split: counts for split, file in SPLITS.items() if (counts := pair_counts(files.dataset / file)) is not None
    }
    if not parts:
        names = " and no ".join(SPLITS.values())
        raise UserError(f"{files.dataset}: holds no {names}: run the step pairs first (steps=[pairs,card])")
    text = "\n".join(_page(context, parts)) + "\n"
    write_atomically(files.card, text)
    lacking = [name for name in _FIELDS if not context.config.card.get(name)]
    if lacking:
        keys = ", ".join(f"card.{name}" for name in lacking)
        context.say(f"the card lacks {keys}; it lists them as missing until you set them")
    return {"missing": lacking, "pairs": {split: counts.rows for split, counts in parts.items()}}


def _page(context: StepContext[AnnotationDir], parts: dict[str, PairCounts]) -> Iterator[str]:
    config, files = context.config, context.files
    name = plain(config.card.get("name") or "Counselling preferences")
    rows = sum(counts.rows for counts in parts.values())
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
    return {split: SPLITS[split] for split, counts in parts.items() if counts.rows}


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
    if rows > _MOST:
        yield from ("Computed on the first 10,000 pairs; the order of clients is random.", "")
    yield from fenced(audit_lines([context.files.dataset / SPLITS[split] for split in parts], context.bar))


def _licences(context: StepContext[AnnotationDir]) -> list[str | None]:
    """Return the makers' licence if set, else the sources' licences (None: unknown) and the writers' known terms."""
    files = context.files
    if context.config.card.get("license"):
        return [str(context.config.card.license)]
    of_splits = [counted(files.dataset / file, ["license"]) or Counter() for file in SPLITS.values()]
    licences = sorted({licence for counts in of_splits for (licence,) in counts}, key=str)
    return licences + sorted({terms for (terms,) in counted(files.replies, ["terms"]) or () if terms})


def _languages(parts: dict[str, PairCounts]) -> list[str]:
    return sorted({str(name) for counts in parts.values() for name in counts.language if name is not None})


# The YAML header, which the Hugging Face hub and `datasets` read

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_MORE_SIZES = ((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))


def front_matter(
    name: str, licences: list[str | None], languages: list[str], splits: dict[str, str], rows: int, content: str
) -> list[str]:
    """Return the lines from `---` to `---`.

    `splits` maps each split to its file. All `licences` apply; None among them is an unknown one. `content` is a hash of the
    files: `datasets` caches by the folder's last name and this header, so without the hash it could load the rows of another
    dataset.
    """
    known = [identifier(licence) for licence in licences] or [None]
    licence = strictest(known)
    front: dict[str, Any] = {"license": licence}
    if licence == "other":
        front["license_name"] = "-and-".join(sorted({code or "unknown" for code in known}))
    codes = sorted(
        {code for language in languages if (code := str(language).lower()) and re.fullmatch("[a-z]{2,3}", code)}
    )
    front |= {"language": codes} if codes else {}
    front |= {
        "pretty_name": plain(name),
        "task_categories": ["text-generation"],
        "size_categories": [size_category(rows)],
    }
    front["tags"] = ["preference", "counselling", "psychocounsel"]
    files = [{"split": split, "path": file} for split, file in splits.items()]
    front |= {"configs": [{"config_name": "default", "description": content, "data_files": files}]} if files else {}
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=10_000)
    return ["---", *text.rstrip().split("\n"), "---", ""]


def size_category(rows: int) -> str:
    """Return the hub's name for a number of rows."""
    return next((name for limit, name in (*_SIZES, *_MORE_SIZES) if rows < limit), "n>1B")


# Sections about the pairs themselves

_TIERS = {
    "unanimous": "all votes prefer the chosen reply",
    "majority": "more than half of the votes prefer it",
    "split": "half of the votes or fewer prefer it",
}


def pairs_section(files: AnnotationDir, parts: Mapping[str, PairCounts]) -> Iterator[str]:
    """Yield counts, agreement and histograms of each split."""
    yield from ("## Pairs", "")
    if not parts:
        yield from missing("pairs")
        return
    yield from table(
        ("split", "pairs", "clients"), [(name, counts.rows, counts.clients) for name, counts in parts.items()]
    )
    yield "The splits share no clients. `ID` is the id of the speech. `chosen_probability` is the share of votes that prefer the"
    yield "chosen reply; training uses it with `data.soft_labels=true`. A test pair is a client's best reply against the worst."
    yield ""
    yield from _made_by(files)
    yield from _agreement(files, parts)
    yield from _left_out(files)
    for name, counts in parts.items():
        if counts.rows:
            yield from _histograms(name, counts)


def _made_by(files: AnnotationDir) -> Iterator[str]:
    """Yield the settings of ratings and pairs, from the records of these steps."""
    relevant: dict[str, Any] = {}
    for step in ("scores", "pairs"):
        settings = read_mapping(files.step(step)).get("settings", {})
        relevant |= {key: value for key, value in settings.items() if key.startswith(f"{step}.")}
    if relevant:
        yield from ("### Settings of ratings and pairs", "")
        yield from table(("key", "value"), [(key, _shown(value)) for key, value in sorted(relevant.items())])


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _agreement(files: AnnotationDir, parts: Mapping[str, PairCounts]) -> Iterator[str]:
    yield from ("### Agreement of votes", "")
    rows = [(tier, meaning, *(counts.agreement[tier] for counts in parts.values())) for tier, meaning in _TIERS.items()]
    yield from table(("tier", "meaning", *parts), rows)
    if read_mapping(files.step("pairs")).get("figures", {}).get("votes_averaged") is False:
        yield "With one vote per reply, every pair is unanimous or a tie, so the tiers say nothing about agreement."
        yield ""


def _left_out(files: AnnotationDir) -> Iterator[str]:
    figures = read_mapping(files.step("pairs")).get("figures", {})
    dropped = {
        split: split_figures["dropped"]
        for split, split_figures in figures.items()
        if isinstance(split_figures, dict) and "dropped" in split_figures
    }
    reasons = list(dict.fromkeys(reason for counts in dropped.values() for reason in counts))
    rows: list[tuple[Any, ...]] = [
        (reason, *(counts.get(reason, 0) for counts in dropped.values())) for reason in reasons
    ]
    if rows := [row for row in rows if any(row[1:])]:
        yield from ("Candidates that made no pair:", "")
        yield from table(("reason", *dropped), rows)


def _histograms(split: str, counts: PairCounts) -> Iterator[str]:
    yield from (f"### Histograms: {split}", "")
    ratings = sorted({rating for by_rating in counts.ratings.values() for rating in by_rating})
    rows = [
        (name, side, *(counts.ratings[side, name][rating] for rating in ratings))
        for name in PRINCIPLES
        for side in SIDES
    ]
    yield from table(("ratings, rounded", "of", *map(str, ratings)), rows)
    yield from histogram("gap of mean ratings", gap_bins(counts.gaps))
    for name in ("question", *SIDES):
        yield from histogram(f"length of {name} (characters)", in_bins(counts.lengths[name]))
    for what, by_value in (("topic", counts.topic), ("risk", counts.risk)):
        yield from histogram(what, named(by_value))


# The audit: how well the labels are predicted without the client's speech

_MOST = 10_000  # pairs; rows are sorted by a hash of the speech, so the first ones are a random sample of clients


def audit_lines(paths: list[Path], bar: Bar) -> list[str]:
    """Return the table of `psychocounsel audit` for the first 10,000 pairs, or one line that says why the audit is missing."""
    from psychocounsel.evaluation.audit.auditing import measure
    from psychocounsel.evaluation.audit.show import audit_blocks

    try:
        rows = chain.from_iterable(rows_of(path, pq.read_schema(path).names) for path in paths)
        examples = [parse_row(row, f"row {number}") for number, row in enumerate(islice(rows, _MOST), 1)]
        if not examples:
            return ["There are no pairs to audit."]
        measured = measure(examples, lambda: examples, {}, _settings(), bar)
    except UserError as error:
        return [f"Not audited: {error}."]
    assert measured is not None
    return "\n".join(terminal_lines(audit_blocks([Titled("", measured.figures)]))).strip().split("\n")


def _settings() -> DictConfig:
    given = {"audit": OmegaConf.structured(AuditOptions), "data": {"rating_range": [1.0, 5.0]}}
    return OmegaConf.create(given)
