"""Flow of branching questions: each answer determines the next question, and faults are scored by dimension."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

END = "END"  # target: no question follows, and the answers so far count
VOID = "VOID"  # target: no question follows, and no dimension is rated
HIGH, LOW, NONE, NOT_ASKED = "high", "low", "none", "not_asked"
SEVERITIES = (HIGH, LOW)  # severities of faults, the worst first


@dataclass(frozen=True)
class FlowQuestion:
    """Question of a flow.

    Attributes:
        id: its identifier.
        text: the question.
        answers: allowed answers.
        goto: target by answer: the id of a later question, END or VOID. Other answers lead to the next question in order.
        dimension: the dimension that it rates.
        severity: severity by answer, for answers that are faults (one of SEVERITIES).
        notes: notes on how to answer it; may be "".
    """

    id: str
    text: str
    answers: tuple[str, ...]
    goto: Mapping[str, str] = field(default_factory=dict)
    dimension: str = ""
    severity: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""


class QuestionFlow:
    """Ordered questions with their branches.

    Raises:
        ValueError: if an id is repeated, `goto` or `severity` name an unknown answer, `goto` leads to an unknown or earlier
            question, or a severity is not one of SEVERITIES.
    """

    def __init__(self, questions: Sequence[FlowQuestion]) -> None:
        self.questions = tuple(questions)
        self.dimensions = tuple(dict.fromkeys(each.dimension for each in questions))
        self._places = {each.id: place for place, each in enumerate(questions)}
        if len(self._places) < len(questions):
            raise ValueError("two questions have the same id")
        for place, each in enumerate(questions):
            for answer in (*each.goto, *each.severity):
                if answer not in each.answers:
                    raise ValueError(f"{each.id}: {answer} is not one of its answers")
            for target in each.goto.values():
                if target not in (END, VOID) and self._places.get(target, -1) <= place:
                    raise ValueError(f"{each.id}: goes to {target}, which is not a later question")
            if wrong := set(each.severity.values()) - set(SEVERITIES):
                raise ValueError(f"{each.id}: {min(wrong)} is not a severity")

    def path(self, said: Mapping[str, str]) -> dict[str, str]:
        """Return the answers on the path, in order, by question id; answers to questions off the path are left out.

        Raises:
            KeyError: if a question on the path has no answer.
        """
        return {each.id: said[each.id] for each in self._way(said)}

    def next_question(self, said: Mapping[str, str]) -> FlowQuestion | None:
        """Return the first question on the path without an answer in `said`; None if the path is complete."""
        return next((each for each in self._way(said) if each.id not in said), None)

    def _way(self, said: Mapping[str, str]) -> Iterator[FlowQuestion]:
        """Yield the questions on the path; questions without an answer are treated as if the next one in order followed."""
        place = 0
        while place < len(self.questions):
            question = self.questions[place]
            yield question
            target = question.goto.get(said.get(question.id, ""))
            if target in (END, VOID):
                return
            place = place + 1 if target is None else self._places[target]


def dimension_scores(flow: QuestionFlow, said: Mapping[str, str]) -> dict[str, str]:
    """Return the worst severity found in each dimension: "high", "low", "none" or "not_asked".

    "none": questions of the dimension are on the path, but no answer is a fault. "not_asked": no question of the dimension
    is on the path, or an answer on the path leads to VOID.

    Raises:
        KeyError: if a question on the path has no answer in `said`.
    """
    found = dict.fromkeys(flow.dimensions, NOT_ASKED)
    path = flow.path(said)
    asked = [each for each in flow.questions if each.id in path]
    if any(each.goto.get(path[each.id]) == VOID for each in asked):
        return found
    order = (HIGH, LOW, NONE, NOT_ASKED)
    for each in asked:
        severity = each.severity.get(path[each.id], NONE)
        found[each.dimension] = min(found[each.dimension], severity, key=order.index)
    return found
