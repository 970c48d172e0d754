"""A flow of questions about a reply: which question follows which answer, and which answers therefore count."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

END = "END"


@dataclass(frozen=True)
class FlowQuestion:
    """A question of a flow.

    Attributes:
        id: by which answers name it.
        text: the question.
        answers: the words that it may be answered with.
        goto: of an answer, the question that follows it, or END; else the next question in order follows.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    goto: Mapping[str, str] = field(default_factory=dict)


class QuestionFlow:
    """Questions in order.

    Raises:
        ValueError: if an id stands there twice, or `goto` names no answer, no question, or one that does not come later.
    """

    def __init__(self, questions: Sequence[FlowQuestion]) -> None:
        self.questions = tuple(questions)
        self._places = {each.id: place for place, each in enumerate(questions)}
        if len(self._places) < len(questions):
            raise ValueError("a question stands there twice")
        for place, each in enumerate(questions):
            for answer, target in each.goto.items():
                if answer not in each.answers:
                    raise ValueError(f"{each.id}: {answer} is none of its answers")
                if target != END and self._places.get(target, -1) <= place:
                    raise ValueError(f"{each.id}: goes to {target}, which is no later question")

    def path(self, said: Mapping[str, str]) -> dict[str, str]:
        """The answers that count: of the questions on the way from the first one, in order.

        Raises:
            KeyError: if a question on the way has no answer.
        """
        place, found = 0, dict[str, str]()
        while place < len(self.questions):
            question = self.questions[place]
            answer = found[question.id] = said[question.id]
            target = question.goto.get(answer)
            place = len(self.questions) if target == END else place + 1 if target is None else self._places[target]
        return found
