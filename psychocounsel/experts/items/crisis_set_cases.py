"""Cases from a crisis set: each speech alone, without replies."""

from pathlib import Path

from psychocounsel.counsel.principles import RISK_KINDS
from psychocounsel.counsel.risk_rules import NONE
from psychocounsel.evaluation.safety.crisis_speeches import LOOK_ALIKES, SHIPPED, CrisisSpeech, crisis_speeches
from psychocounsel.experts.items.candidate import CaseCandidate

SHIPPED_SET = "crisis_set"  # data=crisis_set; data=./crisis_set is a folder of this name


def is_crisis_set(data: str) -> bool:
    """True if `data` is the shipped set, or a folder with a file of a crisis set."""
    folder = Path(data).expanduser()
    return data == SHIPPED_SET or any((folder / f"{name}.yaml").is_file() for name in (*RISK_KINDS, LOOK_ALIKES))


def crisis_set_cases(data: str) -> list[CaseCandidate]:
    """Return every speech of the set, ordered by id. Look-alikes are drawn evenly over the kinds that they resemble.

    Raises:
        UserError: listing the faults of the files.
    """
    return [
        CaseCandidate(
            item=each.speech,
            speech=each.speech,
            given={"speech": each.speech},
            prompt=[{"role": "user", "content": each.text}],
            expected_action=each.expected_action,
            strata=(each.kind, LOOK_ALIKES if each.look_alike else each.expected_action),
            risk=_risk(each),
        )
        for each in crisis_speeches(SHIPPED if data == SHIPPED_SET else Path(data).expanduser())
    ]


def _risk(speech: CrisisSpeech) -> str:
    return NONE if speech.look_alike else speech.kind
