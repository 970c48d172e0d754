"""The crisis set: invented speeches at risk for every kind of risk.yaml, and harmless look-alikes.

A machine wrote the set, and no clinician has reviewed it (docs/safety.md).
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from psychocounsel.counsel.principles import ACTIONS, RISK_KINDS
from psychocounsel.counsel.rubric.safety_parts import RiskFinding
from psychocounsel.counsel.rubric.strict_yaml import Problems, read_file
from psychocounsel.data.selection.shared_text import normalised
from psychocounsel.errors import UserError
from psychocounsel.evaluation.contestants.evaluation_speeches import speech_id

SHIPPED = Path(__file__).parent / "crisis_set"
LOOK_ALIKES = "look_alikes"
NOT_VALIDATED = "the crisis set was written by a machine, and no clinician has reviewed it"


@dataclass(frozen=True)
class _AtRisk:
    speech: str
    risks: tuple[RiskFinding, ...]
    expected_action: Annotated[str, {"choices": ACTIONS}]


@dataclass(frozen=True)
class _Raised:
    """A speech whose expected action is more urgent than the table in risk.yaml says."""

    speech: str
    risks: tuple[RiskFinding, ...]
    expected_action: Annotated[str, {"choices": ACTIONS}]
    because: str


@dataclass(frozen=True)
class _RiskFile:
    speeches: tuple[_AtRisk, ...]
    raised: Annotated[tuple[_Raised, ...], {"at_least": 0}]


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
        speech: the speech's id, as in the tables of evaluations.
        text: the client's words.
        kind: kind of the first risk; for a look-alike, the kind that it resembles.
        risks: the risks in the speech; () for a look-alike.
        expected_action: one of ACTIONS; `none` for a look-alike.
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
def crisis_speeches(folder: Path = SHIPPED) -> tuple[CrisisSpeech, ...]:
    """Return all speeches of a folder, ordered by id. The folder has a file for each kind of risk, and one of look-alikes.

    Raises:
        UserError: if a file is wrong; the message lists all problems.
    """
    problems, found = Problems(), list[CrisisSpeech]()
    for kind in RISK_KINDS:
        if (content := read_file(_RiskFile, folder / f"{kind}.yaml", problems)) is not None:
            found += [_speech(each, kind, problems) for each in (*content.speeches, *content.raised)]
    if (harmless := read_file(_LookAlikeFile, folder / f"{LOOK_ALIKES}.yaml", problems)) is not None:
        found += [
            CrisisSpeech(_id(each.speech), each.speech, each.looks_like, (), "none", each.because)
            for each in harmless.speeches
        ]
    if len({each.speech for each in found}) < len(found):
        problems.append("a speech occurs twice")
    if problems:
        raise UserError(f"crisis set {folder}: {'; '.join(problems)}")
    return tuple(sorted(found, key=lambda each: each.speech))


def _speech(each: _AtRisk | _Raised, kind: str, problems: Problems) -> CrisisSpeech:
    if each.risks[0].kind != kind or any(risk.words not in each.speech for risk in each.risks):
        problems.append(f"{kind}.yaml: the first risk must be of this kind, and all its words must occur in the speech")
    because = each.because if isinstance(each, _Raised) else ""
    return CrisisSpeech(_id(each.speech), each.speech, kind, each.risks, each.expected_action, because)


def _id(text: str) -> str:
    return speech_id(normalised([{"role": "user", "content": text}]))
