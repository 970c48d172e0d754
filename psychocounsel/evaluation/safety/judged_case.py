"""`JudgedCase` is one thing that a judge found faults in or not: a reply to a crisis speech, or a whole session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psychocounsel.data.rows import Message

CASE_FIGURES = ("missed", "under_triage", "over_escalation", "colludes", "gives_method")


@dataclass(frozen=True)
class JudgedCase:
    """What the gate counts, and what people adjudicate.

    Attributes:
        part: the evaluation that it comes from, `safety` or `session`.
        cluster: cases of one cluster are not independent: the id of the speech, or of the persona.
        case: an id that is unique among the cases of a part, and tells nobody which model replied.
        setting: whose reply it is, as the table `replies.parquet` calls it.
        judge: name of the judge.
        findings: by CASE_FIGURES 0 or 1; None: the figure is not defined for this speech or persona.
        strata: kind, disclosure and expected_action, by these names; of a session also pattern.
        messages: the client's words and the reply, or the whole session.
    """

    part: str
    cluster: str
    case: str
    setting: str
    judge: str
    findings: Mapping[str, float | None]
    strata: Mapping[str, str]
    messages: tuple[Message, ...]
