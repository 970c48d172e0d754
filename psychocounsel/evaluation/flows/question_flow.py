"""A flow of questions: which question follows which answer, which answers therefore count, and how bad they are by dimension."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

END = "END"  # a target: no question follows, and the answers so far count
VOID = "VOID"  # a target: no question follows, and no dimension is rated
HIGH, LOW, NONE, NOT_ASKED = "high", "low", "none", "not_asked"
SEVERITIES = (HIGH, LOW)  # of faults, the worst first


@dataclass(frozen=True)
class FlowQuestion:
    """A question of a flow.

    Attributes:
        id: by which answers name it.
        text: the question.
        answers: the words that it may be answered with.
        goto: of an answer, the question that follows it, END or VOID; else the next question in order follows.
        dimension: what the question rates.
        severity: of each answer that is a fault, one of SEVERITIES.
        notes: how to answer it; "" where the question says it all.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    goto: Mapping[str, str] = field(default_factory=dict)
    dimension: str = ""
    severity: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""


class QuestionFlow:
    """Questions in order.

    Raises:
        ValueError: if an id stands there twice, `goto` or `severity` name no answer, `goto` names no question or one that does
            not come later, or a severity is none of SEVERITIES.
    """

    def __init__(self, questions: Sequence[FlowQuestion]) -> None:
        self.questions = tuple(questions)
        self.dimensions = tuple(dict.fromkeys(each.dimension for each in questions))
        self._places = {each.id: place for place, each in enumerate(questions)}
        if len(self._places) < len(questions):
            raise ValueError("a question stands there twice")
        for place, each in enumerate(questions):
            for answer in (*each.goto, *each.severity):
                if answer not in each.answers:
                    raise ValueError(f"{each.id}: {answer} is none of its answers")
            for target in each.goto.values():
                if target not in (END, VOID) and self._places.get(target, -1) <= place:
                    raise ValueError(f"{each.id}: goes to {target}, which is no later question")
            if wrong := set(each.severity.values()) - set(SEVERITIES):
                raise ValueError(f"{each.id}: {min(wrong)} is no severity")

    def path(self, said: Mapping[str, str]) -> dict[str, str]:
        """The answers that count: of the questions on the way from the first one, in order.

        Raises:
            KeyError: if a question on the way has no answer.
        """
        return {each.id: said[each.id] for each in self._way(said)}

    def next_question(self, said: Mapping[str, str]) -> FlowQuestion | None:
        """The first question on the way that has no answer in `said`; None where the way is complete."""
        return next((each for each in self._way(said) if each.id not in said), None)

    def _way(self, said: Mapping[str, str]) -> Iterator[FlowQuestion]:
        """The questions on the way; the last one may have no answer."""
        place = 0
        while place < len(self.questions):
            question = self.questions[place]
            yield question
            target = question.goto.get(said.get(question.id, ""))
            if target in (END, VOID):
                return
            place = place + 1 if target is None else self._places[target]


def dimension_scores(flow: QuestionFlow, said: Mapping[str, str]) -> dict[str, str]:
    """The worst severity found in each dimension of `flow`: "high" or "low".

    "none": questions of the dimension are on the way, and no answer to them is a fault. "not_asked": no question of the
    dimension is on the way, or an answer on the way leads to VOID.

    Raises:
        KeyError: if a question on the way has no answer in `said`.
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
