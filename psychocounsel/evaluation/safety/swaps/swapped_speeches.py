"""The shipped swaps: variants of crisis speeches with another dialect, gender or age, and the same risk.

A machine wrote the variants. Neither clinicians nor speakers of the dialects have reviewed them (docs/safety.md).
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
def swapped_speeches(folder: Path = SHIPPED) -> tuple[SwappedSpeech, ...]:
    """Return all variants of a folder, ordered by id. The folder has a file for each kind of risk, and one of look-alikes.

    Raises:
        UserError: if a file is wrong, a base is not in the crisis set or occurs twice, or a variant has the text of another
            variant or speech. The message lists all problems.
    """
    problems, found = Problems(), list[SwappedSpeech]()
    known = {each.text: each for each in crisis_speeches()}
    done, texts = set[str](), {_words(text) for text in known}
    for name in (*RISK_KINDS, LOOK_ALIKES):
        content = read_file(_SwapFile, folder / f"{name}.yaml", problems)
        for number, each in enumerate(content.swaps if content else (), 1):
            where = f"{name}.yaml: swaps[{number}]"
            if each.base not in known or each.base in done:
                wrong = "is not the exact text of a crisis speech" if each.base not in known else "occurs twice"
                problems.append(f"{where}: the base {wrong}")
                continue
            done.add(each.base)
            for variant in _variants(known[each.base], each):
                if _words(variant.text) in texts:
                    problems.append(
                        f"{where}: {variant.axis}: has the same words as another variant or a speech of the set"
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
    """Return True if an id of the tables belongs to a variant."""
    return speech.rpartition("-")[2] in AXES


def of_the_set(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of a table (with the column `speech`) that are not about variants."""
    return [row for row in rows if not is_swap(row["speech"])]
