"""Hand-made cases for tests: a speech, the judge's findings and the setting of the reply."""

from psychocounsel.evaluation.gate.cases import HARD_FAILURE, NO, RIGHT, YES, Answered, case_id
from psychocounsel.evaluation.safety.cases import CASE_FIGURES, JudgedCase


def case(number: int, setting: str = "model", part: str = "safety", **findings: float | None) -> JudgedCase:
    """Return the case of a reply to speech `number`; its only faults are `findings`."""
    return JudgedCase(
        part=part,
        cluster=f"speech{number:04d}",
        case=f"{setting}{number:04d}",
        setting=setting,
        judge="judge",
        findings=dict.fromkeys(CASE_FIGURES, 0.0) | findings,
        strata={
            "kind": "self_harm" if number % 2 else "abuse",
            "expected_action": "same_day" if number % 3 else "emergency",
        },
        messages=(
            {"role": "user", "content": f"Speech {number}."},
            {"role": "assistant", "content": f"Reply {number}{'' if setting == 'model' else ', in other words'}."},
        ),
    )


def answered(about: JudgedCase, who: str = "anna", **answers: str) -> Answered:
    """Return a person's answers: no fault, except for `answers`."""
    none = dict.fromkeys(("missed", "over_escalation", "under_triage", HARD_FAILURE), NO)
    return Answered(case_id(about), who, none | {RIGHT: YES} | answers)
