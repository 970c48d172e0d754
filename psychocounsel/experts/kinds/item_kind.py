"""`ItemKind` is all that differs between reviews of pairs, of a crisis set and of a gate's cases."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from psychocounsel.counsel.rubric.rubric_folder import Rubric
from psychocounsel.experts.items.assignment import Shown
from psychocounsel.experts.items.candidate import ItemCandidate
from psychocounsel.experts.items.item_drawing import Drawn
from psychocounsel.experts.page.answer_forms import Form, only, seconds_of, text_of
from psychocounsel.experts.review.answer_tables import ItemAnswer, item_answers
from psychocounsel.experts.review.rater_progress import RaterProgress
from psychocounsel.rundir.paths import ReviewDir

Row = dict[str, Any]


@dataclass(frozen=True)
class KindTexts:
    """Words for experts, and for the documents of the protocol.

    Attributes:
        title: of the page, unless `review.title` gives another.
        request: what the consent text asks of experts.
        task: what they do with an item.
        risks: what they may read, in a sentence.
        shows, limits: what the review can show, and what it cannot.
        drawing: which items come first.
        sides: how replies are placed; "" where there are not two.
        measure, secondary, coding: what is measured, and how answers count.
        training: what experts know beforehand.
        collected: what is kept of an answer.
    """

    title: str
    request: str
    task: str
    risks: str
    shows: str
    limits: str
    drawing: str
    sides: str
    measure: str
    secondary: str
    coding: str
    training: str
    collected: str


class ItemKind(ABC):
    """Strategy of one kind of item.

    Attributes:
        name: as plan.json calls the kind.
        what: the items, in messages.
        template: of the page's form.
        draws_all: whether every candidate becomes an item, unless `review.items` is typed.
        without_effect: keys below `review` that have none; typing one is refused.
    """

    name: ClassVar[str]
    what: ClassVar[str]
    template: ClassVar[str]
    texts: ClassVar[KindTexts]
    draws_all: ClassVar[bool] = False
    without_effect: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def holds(self, data: str) -> bool:
        """Whether `data` has items of this kind."""

    @abstractmethod
    def candidates(self, data: str) -> Sequence[ItemCandidate]:
        """Everything in `data` that experts could be asked about.

        Raises:
            UserError: if there is nothing, or it cannot be read.
        """

    @abstractmethod
    def item(self, row: Mapping[str, Any]) -> ItemCandidate:
        """The candidate whose fields stand in a row of items.jsonl."""

    @abstractmethod
    def drawn_line(self, drawn: Sequence[Drawn], candidates: int) -> str:
        """What the organiser of the study reads about the items, which were drawn from so many candidates."""

    @abstractmethod
    def shown(self, item: Any, shown: Shown, options: Any, rubric: Rubric) -> dict[str, Any]:
        """What the template gets, besides what it gets of every kind."""

    @property
    @abstractmethod
    def fields(self) -> frozenset[str]:
        """The fields of the form, besides `comment` and `seconds`."""

    @abstractmethod
    def said(self, form: Form) -> dict[str, Any]:
        """The answer in the kind's own fields.

        Raises:
            BadForm: for a value that the page does not offer.
        """

    @abstractmethod
    def label(self, given: Mapping[str, Any], rubric: Rubric) -> str:
        """An answer in a few words, for the expert's own list."""

    @abstractmethod
    def counted(self, each: ItemAnswer) -> Row:
        """The columns of answers.jsonl that hold the answer itself."""

    @abstractmethod
    def write_tables(self, files: ReviewDir, given: Sequence[ItemAnswer]) -> None:
        """Write the other tables, for their owner alone."""

    def answer_of(self, form: Form, elapsed: float | None) -> dict[str, Any]:
        """The answer to an item: what `said` returns, `comment` and `seconds`.

        `elapsed` are the seconds since the server showed the item, None if it does not know. The page measures how long it
        was visible; that is taken as far as it is possible.

        Raises:
            BadForm: for a field or value that the page does not offer.
        """
        only(form, {"comment", "seconds", *self.fields})
        return {
            **self.said(form),
            "comment": text_of(form, "comment"),
            "seconds": seconds_of(form, elapsed),
        }

    def answer_rows(self, raters: Mapping[str, RaterProgress], items: Mapping[str, ItemCandidate]) -> Iterator[Row]:
        """A row for each answer that counts, in the columns of docs/agreement.md, then `changed` and `time`."""
        for each in item_answers(raters, items):
            yield {
                "item": each.item.item,
                "speech": each.item.speech,
                "rater": each.expert,
                "repeat": each.shown.repeat,
                "seconds": round(sum(event["seconds"] for event in each.history), 1),
                "risk": each.item.risk,
                "topic": each.item.topic,
                "language": each.item.language,
                "comment": each.last["comment"] or None,
                **self.counted(each),
                "changed": len(each.history) - 1,
                "time": each.last["time"],
            }
