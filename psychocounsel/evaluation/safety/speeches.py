"""The crisis set: invented speeches at risk and harmless look-alikes, their swapped variants, and experts' reviews."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from psychocounsel.counsel.principles import ACTIONS, DISCREET, EXPECTED, RISK_KINDS, allowed_actions
from psychocounsel.counsel.rubric import RiskFinding
from psychocounsel.counsel.strict_yaml import Problems, read_file
from psychocounsel.data.selection import speech_hash
from psychocounsel.errors import UserError
from psychocounsel.steps.tables import Row
from psychocounsel.storage.csv_tables import cell_text
from psychocounsel.storage.files import expanded, with_noun

# The crisis set: invented speeches at risk for every kind of risk.yaml, and harmless look-alikes.
#
# A machine wrote the set, and no clinician has reviewed it (docs/safety.md).

SHIPPED_SPEECHES = Path(__file__).parent / "crisis_set"
LOOK_ALIKES = "look_alikes"
NOT_VALIDATED = "the crisis set was written by a machine, and no clinician has reviewed it"


@dataclass(frozen=True)
class _AtRisk:
    """A speech at risk. `because`: reason for an expected action that is not that of the table in risk.yaml."""

    speech: str
    risks: tuple[RiskFinding, ...]
    expected_action: Annotated[str, {"choices": EXPECTED}]
    because: str = ""


@dataclass(frozen=True)
class _RiskFile:
    speeches: tuple[_AtRisk, ...]


@dataclass(frozen=True)
class _LookAlike:
    speech: str
    looks_like: Annotated[str, {"choices": RISK_KINDS}]
    because: str


@dataclass(frozen=True)
class _LookAlikeFile:
    speeches: tuple[_LookAlike, ...]


@dataclass(frozen=True)
class CrisisSpeech:
    """A speech of the crisis set.

    Attributes:
        speech: the speech's id in the tables of evaluations.
        text: the client's words.
        kind: kind of the first risk; for a look-alike, the kind that it resembles.
        risks: the risks in the speech; () for a look-alike.
        expected_action: one of EXPECTED; `none` for a look-alike.
        because: reason why the action differs from the table in risk.yaml, or why a look-alike is harmless; "" if the action
            is the table's.
    """

    speech: str
    text: str
    kind: str
    risks: tuple[RiskFinding, ...]
    expected_action: str
    because: str = ""

    @property
    def look_alike(self) -> bool:
        return not self.risks


@cache
def crisis_speeches(folder: Path = SHIPPED_SPEECHES) -> tuple[CrisisSpeech, ...]:
    """Return all speeches of a folder, ordered by id. The folder has a file for each kind of risk, and one of look-alikes.

    Raises:
        UserError: if a file is wrong; the message lists all problems.
    """
    problems, speeches = Problems(), list[CrisisSpeech]()
    for kind in RISK_KINDS:
        if (content := read_file(_RiskFile, folder / f"{kind}.yaml", problems)) is not None:
            speeches += [_speech(entry, kind, problems) for entry in content.speeches]
    if (harmless := read_file(_LookAlikeFile, folder / f"{LOOK_ALIKES}.yaml", problems)) is not None:
        speeches += [
            CrisisSpeech(speech_hash(entry.speech), entry.speech, entry.looks_like, (), "none", entry.because)
            for entry in harmless.speeches
        ]
    if len({speech.speech for speech in speeches}) < len(speeches):
        problems.append("a speech occurs twice")
    if problems:
        raise UserError(f"crisis set {folder}: {'; '.join(problems)}")
    return tuple(sorted(speeches, key=lambda speech: speech.speech))


def _speech(entry: _AtRisk, kind: str, problems: Problems) -> CrisisSpeech:
    if entry.risks[0].kind != kind or any(risk.words not in entry.speech for risk in entry.risks):
        problems.append(f"{kind}.yaml: the first risk must be of this kind, and all its words must occur in the speech")
    return CrisisSpeech(
        speech_hash(entry.speech), entry.speech, kind, entry.risks, entry.expected_action, entry.because
    )


# The shipped swaps: variants of crisis speeches with another dialect, gender or age, and the same risk.
#
# A machine wrote the variants. Neither clinicians nor speakers of the dialects have reviewed them (docs/safety.md).

SHIPPED_SWAPS = Path(__file__).parent / "crisis_swaps"
DIALECT, GENDER, AGE = AXES = ("dialect", "gender", "age")
VARIETIES = (
    *("African American", "Appalachian", "Australian Aboriginal", "Indian", "Irish", "Jamaican", "learner's"),
    *("London", "Nigerian", "Scottish", "Singaporean"),
)


@dataclass(frozen=True)
class _Dialect:
    variety: Annotated[str, {"choices": VARIETIES}]
    speech: str


@dataclass(frozen=True)
class _Person:
    change: str
    speech: str


@dataclass(frozen=True)
class _Swaps:
    """The exact text of a crisis speech, and its three variants."""

    base: str
    dialect: _Dialect
    gender: _Person
    age: _Person


@dataclass(frozen=True)
class _SwapFile:
    swaps: tuple[_Swaps, ...]


@dataclass(frozen=True)
class SwappedSpeech:
    """A variant of a crisis speech.

    Attributes:
        base: the crisis speech. The variant has the same expected action.
        axis: one of AXES.
        change: the variety of English, or the change of the person, such as `child, boy to girl`.
        text: the client's words.
    """

    base: CrisisSpeech
    axis: str
    change: str
    text: str

    @property
    def speech(self) -> str:
        """The variant's id in the tables: the base's id, `-` and the axis."""
        return f"{self.base.speech}-{self.axis}"


@cache
def swapped_speeches(folder: Path = SHIPPED_SWAPS) -> tuple[SwappedSpeech, ...]:
    """Return all variants of a folder, ordered by id. The folder has a file for each kind of risk, and one of look-alikes.

    Raises:
        UserError: if a file is wrong, a base is not in the crisis set or occurs twice, or a variant has the text of another
            variant or speech. The message lists all problems.
    """
    problems, variants = Problems(), list[SwappedSpeech]()
    known = {speech.text: speech for speech in crisis_speeches()}
    done, texts = set[str](), {_words(text) for text in known}
    for name in (*RISK_KINDS, LOOK_ALIKES):
        content = read_file(_SwapFile, folder / f"{name}.yaml", problems)
        for number, swaps in enumerate(content.swaps if content else (), 1):
            where = f"{name}.yaml: swaps[{number}]"
            if swaps.base not in known or swaps.base in done:
                wrong = "is not the exact text of a crisis speech" if swaps.base not in known else "occurs twice"
                problems.append(f"{where}: the base {wrong}")
                continue
            done.add(swaps.base)
            for variant in _variants(known[swaps.base], swaps):
                if _words(variant.text) in texts:
                    problems.append(
                        f"{where}: {variant.axis}: has the same words as another variant or a speech of the set"
                    )
                texts.add(_words(variant.text))
                variants.append(variant)
    if problems:
        raise UserError(f"swaps {folder}: {'; '.join(problems)}")
    return tuple(sorted(variants, key=lambda variant: variant.speech))


def _variants(base: CrisisSpeech, swaps: _Swaps) -> Iterator[SwappedSpeech]:
    yield SwappedSpeech(base, DIALECT, swaps.dialect.variety, swaps.dialect.speech)
    yield SwappedSpeech(base, GENDER, swaps.gender.change, swaps.gender.speech)
    yield SwappedSpeech(base, AGE, swaps.age.change, swaps.age.speech)


def _words(text: str) -> str:
    return " ".join(text.lower().split())


def is_swap(speech: str) -> bool:
    """Return True if an id of the tables belongs to a variant."""
    return speech.rpartition("-")[2] in AXES


def of_the_set(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of a table (with the column `speech`) that are not about variants."""
    return [row for row in rows if not is_swap(row["speech"])]


# Experts' reviews of the crisis set, made on the blind page: `evaluate evaluation=safety evaluation.set_review=FILE`.

COLUMNS = ("speech", "expected_action", "believable", "adjudicator", "comment")
CANNOT_TELL = "cannot_tell"
_WORDS = {"expected_action": (*ACTIONS, DISCREET, CANNOT_TELL), "believable": ("yes", "no")}


@dataclass(frozen=True)
class SpeechReview:
    """One expert's review of one speech.

    Attributes:
        speech: id of the speech.
        expected_action: one of ACTIONS, `discreet` or `cannot_tell`.
        believable: True if a client could have said the speech.
        adjudicator: the expert's pseudonym.
    """

    speech: str
    expected_action: str
    believable: bool
    adjudicator: str


def validation(file: str | None, speeches: Sequence[CrisisSpeech]) -> str:
    """Return a sentence about the experts' review of the set; without a file, it says that nobody has reviewed it.

    The agreement is the share of reviews that name an action which the set allows; `cannot_tell` counts as disagreement.

    Raises:
        UserError: as `read_set_review`.
    """
    if file is None:
        return NOT_VALIDATED
    known = {speech.speech: speech for speech in speeches}
    reviews = read_set_review(expanded(file), known)
    agreed = sum(review.expected_action in allowed_actions(known[review.speech].expected_action) for review in reviews)
    experts = len({review.adjudicator for review in reviews})
    seen = Counter(review.speech for review in reviews)
    sentence = (
        f"{with_noun(experts, 'expert')} reviewed {len(seen)} of {len(known)} speeches of the crisis set, and agree with "
        f"{100 * agreed / len(reviews):.0f} % of the expected actions"
    )
    alone = sum(count < 2 for count in seen.values())
    return f"{sentence}; only one expert reviewed {with_noun(alone, 'speech', 'speeches')}" if alone else sentence


def read_set_review(file: Path, known: Mapping[str, CrisisSpeech]) -> list[SpeechReview]:
    """Return the reviews in a CSV file with the columns COLUMNS.

    Raises:
        UserError: if a row is wrong, is not about one of the `known` speeches, or repeats another row's speech and
            adjudicator. The message names the line.
    """
    reviews, places = list[SpeechReview](), dict[tuple[str, str], int]()
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
        reviews.append(
            SpeechReview(row["speech"], row["expected_action"], row["believable"] == "yes", row["adjudicator"])
        )
    if not reviews:
        raise UserError(f"evaluation.set_review={file}: contains no reviews")
    return reviews


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
                yield reader.line_num, {name: cell_text(cell) for name, cell in row.items()}
    except csv.Error as error:
        raise UserError(f"evaluation.set_review={file}: is not a CSV table ({error})") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise UserError(f"evaluation.set_review={file}: cannot be read ({reason})") from error
