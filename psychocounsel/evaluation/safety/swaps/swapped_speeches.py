"""The shipped swaps: speeches of the crisis set again, in another dialect, of another gender or age. The risk stays the same.

A machine wrote them, and no clinician has reviewed them, nor has a speaker of the dialects (docs/safety.md).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from psychocounsel.counsel.principles import RISK_KINDS
from psychocounsel.counsel.rubric.strict_yaml import Problems, read_file
from psychocounsel.errors import UserError
from psychocounsel.evaluation.safety.crisis_speeches import LOOK_ALIKES, CrisisSpeech, crisis_speeches
from psychocounsel.steps.tables import Row

SHIPPED = Path(__file__).parents[1] / "crisis_swaps"
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
    """A speech of the crisis set, word for word, and its three variants."""

    base: str
    dialect: _Dialect
    gender: _Person
    age: _Person


@dataclass(frozen=True)
class _SwapFile:
    swaps: tuple[_Swaps, ...]


@dataclass(frozen=True)
class SwappedSpeech:
    """A variant of a speech of the crisis set.

    Attributes:
        base: the speech; its expected action is the variant's, too.
        axis: one of AXES.
        change: the variety of English, or who changed into whom.
    """

    base: CrisisSpeech
    axis: str
    change: str
    text: str

    @property
    def speech(self) -> str:
        """The id in the tables: that of the base, and the axis."""
        return f"{self.base.speech}-{self.axis}"


@cache
def swapped_speeches(folder: Path = SHIPPED) -> tuple[SwappedSpeech, ...]:
    """All variants in a folder with a file for each kind of risk, and one of look-alikes, ordered by id.

    Raises:
        UserError: listing what is wrong with its files: also a base that is not in the crisis set or has other variants
            already, and a variant whose text is that of another variant or speech.
    """
    problems, found = Problems(), list[SwappedSpeech]()
    known = {each.text: each for each in crisis_speeches()}
    done, texts = set[str](), {_words(text) for text in known}
    for name in (*RISK_KINDS, LOOK_ALIKES):
        content = read_file(_SwapFile, folder / f"{name}.yaml", problems)
        for number, each in enumerate(content.swaps if content else (), 1):
            where = f"{name}.yaml: swaps[{number}]"
            if each.base not in known or each.base in done:
                wrong = "is not in the crisis set, word for word" if each.base not in known else "stands there twice"
                problems.append(f"{where}: its base {wrong}")
                continue
            done.add(each.base)
            for variant in _variants(known[each.base], each):
                if _words(variant.text) in texts:
                    problems.append(
                        f"{where}: {variant.axis}: has the words of another variant or of a speech of the set"
                    )
                texts.add(_words(variant.text))
                found.append(variant)
    if problems:
        raise UserError(f"swaps {folder}: {'; '.join(problems)}")
    return tuple(sorted(found, key=lambda each: each.speech))


def _variants(base: CrisisSpeech, swaps: _Swaps) -> Iterator[SwappedSpeech]:
    yield SwappedSpeech(base, DIALECT, swaps.dialect.variety, swaps.dialect.speech)
    yield SwappedSpeech(base, GENDER, swaps.gender.change, swaps.gender.speech)
    yield SwappedSpeech(base, AGE, swaps.age.change, swaps.age.speech)


def _words(text: str) -> str:
    return " ".join(text.lower().split())


def is_swap(speech: str) -> bool:
    """Whether an id of the tables is that of a variant."""
    return speech.rpartition("-")[2] in AXES


def of_the_set(rows: Iterable[Row]) -> list[Row]:
    """The rows of a table (with the column `speech`) that are about no variant."""
    return [row for row in rows if not is_swap(row["speech"])]
