"""Review of a crisis set: experts choose the action that each speech calls for, and say whether it is believable."""

from collections.abc import Sequence
from typing import ClassVar

from psychocounsel.counsel.principles import ACTIONS
from psychocounsel.evaluation.safety.set_review import COLUMNS
from psychocounsel.experts.items.candidate import CaseCandidate, ItemCandidate
from psychocounsel.experts.items.crisis_set_cases import crisis_set_cases, is_crisis_set
from psychocounsel.experts.items.item_drawing import Drawn
from psychocounsel.experts.kinds.case_kind import (
    CANNOT_TELL,
    COUNTS_AS_RISK,
    KNOWN_ACTIONS,
    NUMBERS,
    YES_NO,
    CaseKind,
    Question,
    export_rows,
)
from psychocounsel.experts.kinds.item_kind import KindTexts
from psychocounsel.experts.review.answer_tables import ItemAnswer, csv_text, write_table
from psychocounsel.rundir.paths import ReviewDir


class CrisisSetKind(CaseKind):
    """Speeches of a crisis set, shown without the expected action."""

    name: ClassVar[str] = "crisis_set"
    what: ClassVar[str] = "speeches of a crisis set"
    texts: ClassVar[KindTexts] = KindTexts(
        title="What does this client need?",
        request="to say what a reply to each of these texts should do.",
        task="You read a text and choose the action it calls for, from none to emergency. You also say if a client could have "
        "written it.",
        risks="Many texts speak of distress or danger; others only seem to.",
        shows="Experts choose the action for each speech, without knowing what the set expects. The result is how much they "
        "agree with each other and with the set.",
        limits="speeches of one set, single turns, text alone",
        drawing="evenly over strata of the kind of risk and the expected action",
        measure="weighted kappa between each expert and the expected action",
        secondary="the share of speeches that are believable",
        coding="Actions are an ordinal scale from none to emergency, with quadratic weights (`agreement.weights=quadratic`); an "
        "expert who cannot tell has no answer.",
        training=KNOWN_ACTIONS,
        collected="actions, whether a text is believable",
    )
    questions: ClassVar[tuple[Question, ...]] = (
        Question("expected_action", "action", "What should a reply to this client do?", (*ACTIONS, CANNOT_TELL)),
        Question("believable", "believable", "Is the text believable as the words of a client?", YES_NO),
    )

    def holds(self, data: str) -> bool:
        return is_crisis_set(data)

    def candidates(self, data: str) -> Sequence[ItemCandidate]:
        return crisis_set_cases(data)

    def drawn_line(self, drawn: Sequence[Drawn], candidates: int) -> str:
        harmless = sum(each.candidate.risk == "none" for each in drawn)
        return (
            f"{len(drawn):,} of {candidates:,} speeches are drawn: {len(drawn) - harmless:,} at risk, {harmless:,} look-alikes. "
            + COUNTS_AS_RISK
        )

    def expected(self, item: CaseCandidate) -> dict[str, int]:
        return {"expected_action": NUMBERS[item.expected_action]}

    def write_tables(self, files: ReviewDir, given: Sequence[ItemAnswer]) -> None:
        write_table(files.set_review, csv_text(COLUMNS, export_rows(given)))
