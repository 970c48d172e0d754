"""Agreement command: turns a table of answers into `agreement.json`, a list of disagreements, and terminal lines."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from psychocounsel.data.sources import StandardSource, read_rows
from psychocounsel.errors import UserError
from psychocounsel.experts.agreement.answers import CHOICES, ONE_REPLY, AnswerFormat, ExpertAnswer, read_answers
from psychocounsel.experts.agreement.answers import COLUMNS as ANSWER_COLUMNS
from psychocounsel.experts.agreement.coding import (
    CountingRules,
    RatingRules,
    choice_codes,
    reference_sides,
    refuse_sides_without_label,
    turned_choice,
    turned_ratings,
)
from psychocounsel.experts.agreement.coefficients import Consensus, consensus
from psychocounsel.experts.agreement.figures import PartAgreement, Resampling, every_part
from psychocounsel.experts.settings import require_packages
from psychocounsel.metrics.intervals import Measure, plain
from psychocounsel.rundir.paths import ReviewDir
from psychocounsel.storage.csv_tables import csv_text
from psychocounsel.storage.files import expanded, with_noun, write_atomically, write_json

# The command

_MOST_FITS = 200  # resamples for the model of rater errors, which takes a tenth of a second each


def make_agreement(config: Any) -> list[str]:
    """Measure the agreement of the answers in `config.data` and write the results. Return lines for the terminal.

    Raises:
        UserError: if the table or a library is missing, a row is not a valid answer, or an option does not fit.
    """
    require_packages("agreement", ("statsmodels", "krippendorff", "crowdkit"))
    table = _table_of(expanded(config.data))
    options = config.agreement
    answers = read_answers(read_rows(StandardSource(), str(table), "train", None), _format(options))
    rules = CountingRules(options.sides, options.ties, options.harmful)
    refuse_sides_without_label(answers, rules)
    rated = [answer for answer in answers if answer.rater not in options.adjudicators]
    if unknown := set(options.adjudicators) - {answer.rater for answer in answers}:
        raise UserError(f"agreement.adjudicators: the table has no answer by {sorted(unknown)[0]}")
    sampling = Resampling(options.samples, options.seed, options.least_items)
    parts = list(every_part(rated, rules, RatingRules(options.weights, list(options.rating_range)), sampling))
    raters, likely = _errors(rated, rules, sampling)
    rows = disagreements(answers, list(options.adjudicators), likely)
    folder = expanded(config.out) if config.out else table.parent / "agreement"
    _write(folder, config, answers, parts, raters, rows)
    people = len({answer.rater for answer in answers})
    counts = f"{with_noun(len(answers), 'answer')} by {with_noun(people, 'rater')} about "
    counts += (
        f"{with_noun(len({answer.item for answer in answers}), 'item')} of "
        f"{with_noun(len({answer.speech for answer in answers}), 'speech', 'speeches')}"
    )
    counted = f"; sides={rules.sides}, ties={rules.ties}, harmful={rules.harmful}"
    head = f"{table}: {counts}{counted if any(answer.choice for answer in answers) else ''}"
    return [head, *lines_of(parts, raters, len(rows)), f"written to {folder}"]


def _table_of(path: Path) -> Path:
    """Return the table's file, or the file of answers in a folder.

    Raises:
        UserError: if it does not exist.
    """
    if path.is_file():
        return path
    table = next((file for file in (ReviewDir(path).answers, ReviewDir.of(path).answers) if file.is_file()), None)
    if table is None:
        raise UserError(f"data={path}: not a table of answers, nor a folder with answers.jsonl")
    return table


def _format(options: Any) -> AnswerFormat:
    columns, values = dict(options["columns"]), dict(options["values"])
    if wrong := set(columns) - set(ANSWER_COLUMNS):
        raise UserError(f"agreement.columns: {sorted(wrong)[0]}: unknown name; choose from {', '.join(ANSWER_COLUMNS)}")
    return AnswerFormat(columns, values, list(options.dimensions), list(options.rating_range), list(options.not_rated))


def _errors(
    answers: Sequence[ExpertAnswer], rules: CountingRules, sampling: Resampling
) -> tuple[Consensus | None, dict[str, tuple[str, float]]]:
    """Return the model of rater errors, and the likely choice of each item with its probability."""
    codes = choice_codes([answer for answer in answers if not answer.repeat], replace(rules, sides="shown"))
    fitted = consensus(codes, min(sampling.samples, _MOST_FITS), sampling.seed) if codes else None
    if codes is None or fitted is None:
        return None, {}
    likely = {
        item: (str(codes.categories[int(category)]), round(float(probability), 4))
        for (item, _), category, probability in zip(codes.units, fitted.likely, fitted.probability, strict=True)
    }
    return fitted, likely


def _write(
    folder: Path,
    config: Any,
    answers: Sequence[ExpertAnswer],
    parts: Sequence[PartAgreement],
    raters: Consensus | None,
    rows: Sequence[Row],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "settings": OmegaConf.to_container(config.agreement),
        "counts": {name: len({getattr(answer, name) for answer in answers}) for name in ("item", "speech", "rater")},
        "parts": plain([asdict(part) for part in parts]),
        "accuracy": plain({name: asdict(value) for name, value in raters.accuracy.items()}) if raters else None,
        "disagreements": len(rows),
    }
    write_json(folder / "agreement.json", content)
    listed = ([row[name] for name in DISAGREEMENT_COLUMNS] for row in rows)
    write_atomically(folder / "disagreements.csv", csv_text(DISAGREEMENT_COLUMNS, listed, "\r\n"))


# Items to adjudicate, without texts

DISAGREEMENT_COLUMNS = (
    "item",
    "speech",
    "kind",
    "risk",
    "topic",
    "language",
    "label",
    "choices",
    "settled",
    "likely",
    "probability",
)
# Kinds of disagreement, in the order in which to settle them.
DISAGREEMENT_KINDS = ("harmful", "sides", "expected", "tie", "ratings", "own repeat")

Row = dict[str, Any]


def disagreements(
    answers: Sequence[ExpertAnswer],
    adjudicators: Sequence[str],
    likely: Mapping[str, tuple[str, float]],
) -> list[Row]:
    """Return a row for each item with differing choices (harm first), else with differing ratings (the widest first).

    Of an item with expected values, only the ratings of these count.

    Choices are turned to the item's reference side (see `reference_sides`). `likely` holds the consensus of an item, if
    it has one, with its probability; `settled` holds the adjudicators' choices.
    """
    reference = reference_sides(answers)
    by_item: dict[str, list[ExpertAnswer]] = defaultdict(list)
    for answer in answers:
        by_item[answer.item].append(answer)
    rows = []
    for item, given in by_item.items():
        rated = [answer for answer in given if answer.rater not in adjudicators]
        if kind := _disagreement_kind(rated, reference):
            settled = {
                answer.rater: _answer_text(answer, reference) for answer in given if answer.rater in adjudicators
            }
            spread = _spread(rated, reference) if kind == "ratings" else 0.0
            row = _disagreement_row(item, kind, rated, settled, reference, likely.get(item))
            rows.append((DISAGREEMENT_KINDS.index(kind), -spread, item, row))
    return [row for *_, row in sorted(rows, key=lambda entry: entry[:3])]


def _answer_text(answer: ExpertAnswer, reference: Mapping[str, str]) -> str:
    """Return the choice; for an item that is only rated, its ratings: of the expected values, with `-` if missing, or all."""
    if answer.choice is not None:
        return turned_choice(answer, dict(reference)) or ""
    if answer.expected:
        return _values(answer.ratings.get(ONE_REPLY, {}), answer.expected[ONE_REPLY])
    turned = turned_ratings(answer, dict(reference))
    named = {
        f"{side} {name}".removeprefix(f"{ONE_REPLY} "): value
        for side, values in turned.items()
        for name, value in values.items()
    }
    return _values(named)


def _spread(answers: Sequence[ExpertAnswer], reference: Mapping[str, str]) -> float:
    """Return the largest difference between two first ratings of one name."""
    given: dict[tuple[str, str], list[float]] = defaultdict(list)
    for answer in (answer for answer in answers if not answer.repeat):
        for side, ratings in turned_ratings(answer, dict(reference)).items():
            for name, value in ratings.items():
                given[side, name].append(value)
    return max((max(values) - min(values) for values in given.values()), default=0.0)


def _values(ratings: Mapping[str, float], names: Iterable[str] | None = None) -> str:
    names = sorted(ratings) if names is None else names
    return ", ".join(f"{name}={ratings[name]:g}" if name in ratings else f"{name}=-" for name in names)


def _disagreement_kind(answers: Sequence[ExpertAnswer], reference: dict[str, str]) -> str:
    """Return the kind of the disagreement, or "" if the answers agree."""
    first = {_answer_text(answer, reference) for answer in answers if not answer.repeat}
    if len(first) > 1 and first <= {*CHOICES}:
        return "harmful" if "harmful" in first else "sides" if {"left", "right"} <= first else "tie"
    if len(first) > 1 and (answers[0].expected or _spread(answers, reference)):
        return "expected" if answers[0].expected else "ratings"
    own: dict[str, set[str]] = defaultdict(set)
    for answer in answers:
        own[answer.rater].add(_answer_text(answer, reference))
    return "own repeat" if any(len(choices) > 1 for choices in own.values()) else ""


def _disagreement_row(
    item: str,
    kind: str,
    answers: Sequence[ExpertAnswer],
    settled: Mapping[str, str],
    reference: Mapping[str, str],
    likely: tuple[str, float] | None,
) -> Row:
    about = answers[0]
    ordered = sorted(answers, key=lambda answer: (answer.repeat, answer.rater))
    choices = {
        f"{answer.rater} (again)" if answer.repeat else answer.rater: _answer_text(answer, reference)
        for answer in ordered
    }
    expected = about.expected.get(ONE_REPLY, {})
    return {
        "item": item,
        "speech": about.speech,
        "kind": kind,
        "risk": about.risk,
        "topic": about.topic,
        "language": about.language,
        "label": (reference[item] if about.label else None) or _values(expected, expected) or None,
        "choices": json.dumps(choices, ensure_ascii=False),
        "settled": json.dumps(settled, ensure_ascii=False) if settled else None,
        "likely": likely and likely[0],
        "probability": likely and likely[1],
    }


# Lines for a terminal: a table for each part

# The coefficients of choices, of choices whose ties agree by half, and of ratings, with their headings.
_NOMINAL = {"raw": "raw", "cohen": "kappa", "fleiss": "Fleiss", "ac1": "AC1", "alpha": "alpha"}
_HALF = {
    "raw": "raw",
    "weighted_raw": "weighted raw",
    "weighted_cohen": "weighted kappa",
    "ac2": "AC2",
    "weighted_alpha": "weighted alpha",
}
_ORDINAL = {
    "raw": "raw",
    "weighted_cohen": "weighted kappa",
    "ac2": "AC2",
    "weighted_alpha": "ordinal alpha",
    "icc_2_1": "ICC(2,1)",
    "icc_2_k": "ICC(2,k)",
    "spearman": "Spearman",
}
_TITLES = {
    "choices": "Between raters: choices",
    "label": "Each rater and the dataset's label",
    "expected": "Each rater and the dataset's expected values",
    "ratings": "Between raters: ratings",
    "repeats": "Each rater with themselves, on repeated items",
}
_ABOUT, _COUNT, _FIGURE = 26, 9, 21  # widths of columns, in characters


def lines_of(parts: Sequence[PartAgreement], raters: Consensus | None, disagreements: int) -> Iterator[str]:
    """Yield the lines of all parts, of the raters' estimated accuracy, and of the number of items to adjudicate."""
    for part, title in _TITLES.items():
        of_part = [row for row in parts if row.part == part]
        if of_part:
            yield f"\n{title}"
        for names in (_NOMINAL, _HALF, _ORDINAL):
            if rows := [row for row in of_part if _names_of(row) is names]:
                yield from _table_lines(rows, names)
    if not parts:
        yield "\nNo coefficients: no item has answers of two raters (agreement.columns={rater: NAME} names the raters' column)"
    if raters is not None:
        yield "\nEstimated accuracy of each rater (model of Dawid and Skene)"
        for name, accuracy in raters.accuracy.items():
            yield f"  {name:<{_ABOUT}}{_figure(accuracy)}"
    yield f"\n{with_noun(disagreements, 'item needs', 'items need')} adjudication. Intervals are 95 %, over speeches."


def _names_of(part: PartAgreement) -> dict[str, str]:
    return _ORDINAL if "icc_2_1" in part.figures else _HALF if "weighted_cohen" in part.figures else _NOMINAL


def _table_lines(rows: Sequence[PartAgreement], headings: Mapping[str, str]) -> Iterator[str]:
    names = [name for name in headings if any(name in row.figures for row in rows)]
    head = "".join(f"{headings[name]:<{_FIGURE}}" for name in names)
    yield f"  {'':<{_ABOUT}}{'items':<{_COUNT}}{'speeches':<{_COUNT}}{'raters':<{_COUNT}}{head}".rstrip()
    for row in rows:
        counts = "".join(f"{count:<{_COUNT}}" for count in (row.items, row.speeches, row.raters))
        figures = "".join(f"{_figure(row.figures.get(name)):<{_FIGURE}}" for name in names)
        yield f"  {row.about:<{_ABOUT}}{counts}{figures}".rstrip()


def _figure(value: Measure | None) -> str:
    if value is None or math.isnan(value.value):
        return "-"
    interval = "" if math.isnan(value.low) else f" [{value.low:.2f}, {value.high:.2f}]"
    return f"{value.value:.2f}{interval}"
