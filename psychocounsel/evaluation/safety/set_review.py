"""Experts' reviews of the crisis set, made on the blind page: `evaluate evaluation=safety evaluation.set_review=FILE`."""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from psychocounsel.counsel.principles import ACTIONS
from psychocounsel.errors import UserError
from psychocounsel.evaluation.safety.crisis_speeches import NOT_VALIDATED, CrisisSpeech

COLUMNS = ("speech", "expected_action", "believable", "adjudicator", "comment")
CANNOT_TELL = "cannot_tell"
_WORDS = {"expected_action": (*ACTIONS, CANNOT_TELL), "believable": ("yes", "no")}


@dataclass(frozen=True)
class SpeechReview:
    """One expert's review of one speech.

    Attributes:
        speech: id of the speech.
        expected_action: one of ACTIONS, or `cannot_tell`.
        believable: True if a client could have said the speech.
        adjudicator: the expert's pseudonym.
    """

    speech: str
    expected_action: str
    believable: bool
    adjudicator: str


def validation(file: str | None, speeches: Sequence[CrisisSpeech]) -> str:
    """Return a sentence about the experts' review of the set; without a file, it says that nobody has reviewed it.

    The agreement is the share of reviews that name the set's expected action; `cannot_tell` counts as disagreement.

    Raises:
        UserError: as `read_set_review`.
    """
    if file is None:
        return NOT_VALIDATED
    known = {each.speech: each for each in speeches}
    reviews = read_set_review(Path(file).expanduser(), known)
    agreed = sum(each.expected_action == known[each.speech].expected_action for each in reviews)
    experts = len({each.adjudicator for each in reviews})
    seen = Counter(each.speech for each in reviews)
    said = (
        f"{_counted(experts, 'expert')} reviewed {len(seen)} of {len(known)} speeches of the crisis set, and agree with "
        f"{100 * agreed / len(reviews):.0f} % of the expected actions"
    )
    alone = sum(count < 2 for count in seen.values())
    return f"{said}; only one expert reviewed {_counted(alone, 'speech', 'speeches')}" if alone else said


def read_set_review(file: Path, known: Mapping[str, CrisisSpeech]) -> list[SpeechReview]:
    """Return the reviews in a CSV file with the columns COLUMNS.

    Raises:
        UserError: if a row is wrong, is not about one of the `known` speeches, or repeats another row's speech and
            adjudicator. The message names the line.
    """
    found, places = list[SpeechReview](), dict[tuple[str, str], int]()
    for line, row in _rows(file):
        where = f"evaluation.set_review={file}: line {line}"
        for name, words in _WORDS.items():
            if row[name] not in words:
                raise UserError(f"{where}: {name} must be one of {', '.join(words)}")
        if row["speech"] not in known:
            raise UserError(
                f"{where}: no speech of this crisis set has this id; the review belongs to another set or version"
            )
        if not row["adjudicator"].strip():
            raise UserError(f"{where}: adjudicator is empty; give each expert's pseudonym")
        key = row["speech"], row["adjudicator"]
        if key in places:
            raise UserError(f"{where}: the same speech and adjudicator as in line {places[key]}; keep one of them")
        places[key] = line
        found.append(
            SpeechReview(row["speech"], row["expected_action"], row["believable"] == "yes", row["adjudicator"])
        )
    if not found:
        raise UserError(f"evaluation.set_review={file}: contains no reviews")
    return found


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each row with the number of its last line."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text, strict=True)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise UserError(f"evaluation.set_review={file}: line 1: the columns must be {', '.join(COLUMNS)}")
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(
                        f"evaluation.set_review={file}: line {reader.line_num}: must have {len(COLUMNS)} cells, like line 1"
                    )
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"evaluation.set_review={file}: is not a CSV table ({error})") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise UserError(f"evaluation.set_review={file}: cannot be read ({reason})") from error


def _counted(number: int, one: str, several: str | None = None) -> str:
    return f"{number} {one if number == 1 else several or f'{one}s'}"
