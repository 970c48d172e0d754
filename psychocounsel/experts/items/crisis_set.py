"""Review of a crisis set: experts choose the action that each speech calls for, and say whether it is believable."""

from collections.abc import Sequence
from typing import ClassVar

from psychocounsel.counsel.principles import ACTIONS, DISCREET, RISK_KINDS
from psychocounsel.counsel.traits import NONE
from psychocounsel.evaluation.safety.speeches import (
    COLUMNS,
    LOOK_ALIKES,
    SHIPPED_SPEECHES,
    crisis_speeches,
)
from psychocounsel.experts.items.candidates import CaseCandidate, Drawn
from psychocounsel.experts.items.kind import (
    CANNOT_TELL,
    COUNTS_AS_RISK,
    KNOWN_ACTIONS,
    NUMBERS,
    YES_NO,
    CaseKind,
    KindTexts,
    Question,
    export_rows,
)
from psychocounsel.experts.review.progress import ItemAnswer, write_table
from psychocounsel.rundir.paths import ReviewDir
from psychocounsel.storage.csv_tables import csv_text
from psychocounsel.storage.files import expanded

SHIPPED_SET = "crisis_set"  # data=crisis_set; data=./crisis_set is a folder of this name


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
        "expert who cannot tell, or chooses to name nothing, has no answer.",
        training=KNOWN_ACTIONS,
        collected="actions, whether a text is believable",
    )
    questions: ClassVar[tuple[Question, ...]] = (
        Question(
            "expected_action", "action", "What should a reply to this client do?", (*ACTIONS, DISCREET, CANNOT_TELL)
        ),
        Question("believable", "believable", "Is the text believable as the words of a client?", YES_NO),
    )

    def holds(self, data: str) -> bool:
        """True if `data` is the shipped set, or a folder with a file of a crisis set."""
        folder = expanded(data)
        return data == SHIPPED_SET or any((folder / f"{name}.yaml").is_file() for name in (*RISK_KINDS, LOOK_ALIKES))

    def candidates(self, data: str) -> Sequence[CaseCandidate]:
        """Return every speech of the set, ordered by id. Look-alikes are drawn evenly over the kinds that they resemble.

        Raises:
            UserError: listing the faults of the files.
        """
        return [
            CaseCandidate(
                item=speech.speech,
                speech=speech.speech,
                given={"speech": speech.speech},
                prompt=[{"role": "user", "content": speech.text}],
                expected_action=speech.expected_action,
                strata=(speech.kind, LOOK_ALIKES if speech.look_alike else speech.expected_action),
                risk=NONE if speech.look_alike else speech.kind,
            )
            for speech in crisis_speeches(SHIPPED_SPEECHES if data == SHIPPED_SET else expanded(data))
        ]

    def drawn_line(self, drawn: Sequence[Drawn], candidates: int) -> str:
        harmless = sum(item.candidate.risk == "none" for item in drawn)
        return (
            f"{len(drawn):,} of {candidates:,} speeches are drawn: {len(drawn) - harmless:,} at risk, {harmless:,} look-alikes. "
            + COUNTS_AS_RISK
        )

    def expected(self, item: CaseCandidate) -> dict[str, int]:
        """Return the number of the expected action; {} if the set allows two actions, or the action is no urgency."""
        known = item.expected_action in NUMBERS
        return {"expected_action": NUMBERS[item.expected_action]} if known else {}

    def write_tables(self, files: ReviewDir, given: Sequence[ItemAnswer]) -> None:
        write_table(
            files.set_review, csv_text(COLUMNS, ([row[name] for name in COLUMNS] for row in export_rows(given)))
        )
