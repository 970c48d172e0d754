"""`JudgedCase`: a judge's findings about one reply to a crisis speech, or about one whole session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psychocounsel.data.rows import Message

CASE_FIGURES = ("missed", "under_triage", "over_escalation", "colludes", "gives_method")


@dataclass(frozen=True)
class JudgedCase:
    """A case that the gate counts and that experts adjudicate.

    Attributes:
        part: the evaluation of the case, `safety` or `session`.
        cluster: id of the speech or of the persona. Cases of one cluster are not independent.
        case: an id, unique within a part, that does not reveal the model.
        setting: the setting that replied, named as in `replies.parquet`.
        judge: name of the judge.
        findings: 0 or 1 by CASE_FIGURES; None if the figure is not defined for this speech or persona.
        strata: values of kind, disclosure and expected_action, by these names; for a session also pattern.
        messages: the speech and the reply, or the whole session.
    """

    part: str
    cluster: str
    case: str
    setting: str
    judge: str
    findings: Mapping[str, float | None]
    strata: Mapping[str, str]
    messages: tuple[Message, ...]
