"""Sections of the card about the pairs themselves."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from psychocounsel.annotation.card.counting import SIDES, PairCounts, gap_bins, in_bins
from psychocounsel.annotation.card.markdown import histogram, table
from psychocounsel.annotation.card.origins import missing
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.storage.files import read_mapping

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
    yield from table(("split", "pairs", "clients"), [(name, each.rows, each.clients) for name, each in parts.items()])
    yield "The splits share no clients. `ID` is the id of the speech. `chosen_probability` is the share of votes that prefer the"
    yield "chosen reply; training uses it with `data.soft_labels=true`. A test pair is a client's best reply against the worst."
    yield ""
    yield from _made_by(files)
    yield from _agreement(parts)
    yield from _left_out(files)
    for name, each in parts.items():
        if each.rows:
            yield from _histograms(name, each)


def _made_by(files: AnnotationDir) -> Iterator[str]:
    """Yield the settings of ratings and pairs, from the records of these steps."""
    found: dict[str, Any] = {}
    for step in ("scores", "pairs"):
        settings = read_mapping(files.step(step)).get("settings", {})
        found |= {key: value for key, value in settings.items() if key.startswith(f"{step}.")}
    if found:
        yield from ("### Settings of ratings and pairs", "")
        yield from table(("key", "value"), [(key, _shown(value)) for key, value in sorted(found.items())])


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _agreement(parts: Mapping[str, PairCounts]) -> Iterator[str]:
    yield from ("### Agreement of votes", "")
    rows = [(tier, meaning, *(each.agreement[tier] for each in parts.values())) for tier, meaning in _TIERS.items()]
    yield from table(("tier", "meaning", *parts), rows)
    if all(set(each.probabilities) <= {0.0, 0.5, 1.0} for each in parts.values()):
        yield "With one vote per reply, every pair is unanimous or a tie, so the tiers say nothing about agreement."
        yield ""


def _left_out(files: AnnotationDir) -> Iterator[str]:
    figures = read_mapping(files.step("pairs")).get("figures", {})
    dropped = {
        split: each["dropped"] for split, each in figures.items() if isinstance(each, dict) and "dropped" in each
    }
    reasons = list(dict.fromkeys(reason for each in dropped.values() for reason in each))
    rows: list[tuple[Any, ...]] = [(reason, *(each.get(reason, 0) for each in dropped.values())) for reason in reasons]
    if rows := [row for row in rows if any(row[1:])]:
        yield from ("Candidates that made no pair:", "")
        yield from table(("reason", *dropped), rows)


def _histograms(split: str, counts: PairCounts) -> Iterator[str]:
    yield from (f"### Histograms: {split}", "")
    ratings = sorted({rating for found in counts.ratings.values() for rating in found})
    rows = [
        (name, side, *(counts.ratings[side, name][rating] for rating in ratings))
        for name in PRINCIPLES
        for side in SIDES
    ]
    yield from table(("ratings, rounded", "of", *map(str, ratings)), rows)
    yield from histogram("gap of mean ratings", gap_bins(counts.gaps))
    for name in ("question", *SIDES):
        yield from histogram(f"length of {name} (characters)", in_bins(counts.lengths[name]))
    for what, found in (("topic", counts.topic), ("risk", counts.risk)):
        yield from histogram(what, _named(found))


def _named(counts: Counter[Any]) -> dict[str, int]:
    return {"not given" if name is None else str(name): count for name, count in counts.most_common()}
