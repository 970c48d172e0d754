"""Sections of the card about the origins of speeches, replies and ratings."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from psychocounsel.annotation.counts import counted, marginal_counts, named
from psychocounsel.blocks.markdown import cell, escaped, histogram, table
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import by_speech, joined
from psychocounsel.storage.files import read_mapping

_RULES = "rules"  # the value of `model` in votes of annotator=rules
_UNKNOWN = "**unknown**: ask its authors before you use or pass on these data"

DEMONSTRATION = (
    "> **This is a demonstration.** The ratings come from simple rules on the surface of a reply (`annotator=rules`); they are "
    "no judgement. Use these data only to test the commands."
)


def is_demonstration(files: AnnotationDir) -> bool:
    """Return True if `annotator=rules` gave any of the votes."""
    return any(model == _RULES for (model,) in counted(files.votes, ["model"]) or ())


def missing(step: str) -> list[str]:
    """Return the lines of a section whose table is not in the directory."""
    return [f"Not known: the step `{step}` has not run in this directory.", ""]


def speeches_section(files: AnnotationDir) -> Iterator[str]:
    """Yield the sources with licences, and the dropped rows."""
    yield from ("## Client speeches", "")
    counts = counted(files.speeches, ["source", "license", "language"])
    if counts is None:
        yield from missing("speeches")
        return
    yield from table(
        ("source", "licence", "language", "speeches"),
        [(source, licence or "unknown", language, count) for (source, licence, language), count in _sorted(counts)],
    )
    unknown = sorted({str(source) for source, licence, _ in counts if not licence})
    yield from (f"- Licence of {escaped(source)}: {_UNKNOWN}." for source in unknown)
    yield from ("",) if unknown else ()
    dropped = counted(files.dropped_speeches, ["source", "reason"])
    if dropped:
        yield from ("Dropped rows, by reason:", "")
        yield from table(("source", "reason", "rows"), [(*values, count) for values, count in _sorted(dropped)])
    speech_counts = counted(files.speeches, ["topic", "risk", "risk_source"])
    assert speech_counts is not None
    yield from histogram("topic", named(marginal_counts(speech_counts, 0)))
    yield from histogram("risk", named(marginal_counts(speech_counts, 1)))
    yield from ("Origin of the risk label (`unknown` counts as a crisis):", "")
    yield from histogram("risk known by", named(marginal_counts(speech_counts, 2)))


def identifiers_section(files: AnnotationDir) -> Iterator[str]:
    """Yield the number of placeholders and the limits of replacing identifiers."""
    yield from ("### Identifiers", "")
    yield (
        "**This is not anonymisation.** Rules replace names, addresses, e-mails, numbers and similar identifiers that they find "
        "with placeholders. What they miss remains, and a story can identify a person without a name."
    )
    counts = counted(files.speeches, ["identifiers"])
    if counts is not None:
        total = sum((number or 0) * count for (number,), count in counts.items())
        replaced = sum(count for (number,), count in counts.items() if number)
        yield f"{total:,} placeholders in {replaced:,} of {sum(counts.values()):,} speeches."
    yield ""
    planted = read_mapping(files.step("speeches")).get("figures", {}).get("planted")
    if planted:
        yield from (
            "Share of identifiers that the rules find, by kind, measured on identifiers planted in made-up speeches:",
            "",
        )
        rows = [(kind, recall["planted"], f"{100 * recall['recall']:.1f} %") for kind, recall in planted.items()]
        yield from table(("kind", "planted", "found"), rows)


def writers_section(files: AnnotationDir) -> Iterator[str]:
    """Yield the writers, their terms, and the outcomes of their calls."""
    yield from ("## Replies", "")
    counts = counted(files.replies, ["writer", "model", "terms", "outcome"])
    if counts is None:
        yield from missing("replies")
        return
    writers = sorted({values[:3] for values in counts}, key=str)
    outcomes = sorted({str(values[3]) for values in counts}, key=lambda name: (name != "text", name))
    rows = [
        (writer, model, terms or "unknown", *(counts[writer, model, terms, outcome] for outcome in outcomes))
        for writer, model, terms in writers
    ]
    yield from table(("writer", "model, as the server named it", "terms of its output", *map(escaped, outcomes)), rows)
    if any(terms is None for _, _, terms in writers):
        yield from (f"- Terms of a writer's output are {_UNKNOWN}.", "")
    yield from _prompts(files, "replies")
    yield from _missing_replies(files)


def _missing_replies(files: AnnotationDir) -> Iterator[str]:
    """Yield the shares of missing replies by risk and topic, because refusals concentrate where clients are in danger."""
    yield from ("### Missing replies", "")
    if not files.speeches.exists():
        yield from ("Not known by risk and topic: the speeches are not in this directory.", "")
        return
    counts: dict[str, dict[str, Counter[str]]] = {"risk": {}, "topic": {}}
    for (speech, *_), replies in joined(by_speech(files.speeches, [*counts]), by_speech(files.replies, ["outcome"])):
        outcomes = Counter(row["outcome"] for row in replies)
        for column, by_value in counts.items():
            by_value.setdefault(speech[column] or "not given", Counter()).update(outcomes)
    for column, by_value in counts.items():
        rows = []
        for value, outcomes in sorted(by_value.items()):
            others = {name: count for name, count in sorted(outcomes.items()) if name != "text"}
            rows.append(_missing_row(value, outcomes.total(), others))
        yield from table((column, "calls", "missing", "of which"), rows)


def _missing_row(value: str, calls: int, others: dict[str, int]) -> tuple[Any, ...]:
    kinds = ", ".join(f"{name} {count}" for name, count in others.items() if count)
    return value, calls, f"{100 * sum(others.values()) / max(calls, 1):.1f} %", kinds or "none"


def licence_section(context: StepContext[AnnotationDir]) -> Iterator[str]:
    """Yield the section on licences and terms, without advice."""
    yield from ("## Licences and terms", "")
    yield (
        "All licences of the sources and all terms of the writers' output apply together; the metadata give the strictest. "
        "The list is complete only as far as the makers have filled it in, and it is **not legal advice**."
    )
    accepted = [*(context.config.get("accept_terms") or [])]
    yield ""
    if accepted:
        yield f"Conflicts that the makers have accepted: {', '.join(map(escaped, accepted))}."
        yield ""


def votes_section(context: StepContext[AnnotationDir]) -> Iterator[str]:
    """Yield annotators, rubric, missing ratings and test-retest agreement."""
    files = context.files
    yield from ("## Ratings", "")
    counts = counted(files.votes, ["annotator", "model", "outcome"])
    if counts is None:
        yield from missing("scores")
        return
    outcomes = sorted({str(values[2]) for values in counts}, key=lambda name: (name != "rated", name))
    names = sorted({values[:2] for values in counts}, key=str)
    rows = [(*name, *(counts[*name, outcome] for outcome in outcomes)) for name in names]
    yield from table(("annotator", "model, as the server named it", *map(escaped, outcomes)), rows)
    rubric = context.config.scores.rubric if context.config.get("scores") is not None else None
    yield f"Rubric: {cell(rubric)} (seven principles, 1 to 5)."
    yield ""
    yield from _prompts(files, "votes")
    figures = read_mapping(files.step("scores")).get("figures", {})
    yield from _missing_ratings(figures.get("missing"))
    yield from _retest(figures.get("retest"))


def _prompts(files: AnnotationDir, name: str) -> Iterator[str]:
    versions = counted(getattr(files, name), ["prompt_version"]) or Counter()
    yield from (f"Version of the prompt: {', '.join(sorted(cell(version) for (version,) in versions))}.", "")


def _missing_ratings(by_column: dict[str, Any] | None) -> Iterator[str]:
    yield from ("### Missing ratings", "")
    if not by_column:
        yield from ("Not known: the step `scores` left no record of them in this directory.", "")
        return
    yield (
        "Refused, filtered and unreadable answers are missing. They are not missing at random, and nothing replaces them. "
        "`not_asked` counts ratings that no annotator was asked for: replies to crisis speeches or to languages it must not see."
    )
    yield ""
    for column, values in by_column.items():
        rows = []
        for value, outcomes in values.items():
            counts = {name: count for name, count in outcomes.items() if name != "missing"}
            others = {name: count for name, count in counts.items() if name != "rated"}
            rows.append(_missing_row(value, sum(counts.values()), others))
        yield from table((escaped(column), "ratings wanted", "missing", "of which"), rows)


def _retest(figures: dict[str, Any] | None) -> Iterator[str]:
    yield from ("### Test-retest", "")
    if not figures:
        yield from ("Not measured: no reply was rated twice (`scores.repeat`).", "")
        return
    for annotator, retest in figures.items():
        twice, changed = retest["rated_twice"], retest["changed_outcome"]
        yield f"- {escaped(annotator)}: {twice:,} replies rated twice, {changed:,} with another outcome the second time."
        yield ""
        rows = [(name, *(agreement.get(key) for key in _RETEST)) for name, agreement in retest["principles"].items()]
        yield from table(("principle", "replies", "equal", "mean difference", "weighted kappa"), rows)


_RETEST = ("replies", "exact", "difference", "weighted_kappa")


def _sorted(counts: Counter[tuple[Any, ...]]) -> list[tuple[tuple[Any, ...], int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
