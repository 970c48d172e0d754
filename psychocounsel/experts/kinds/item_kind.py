"""`ItemKind`, base class of the kinds of items: pairs, speeches of a crisis set, cases of a gate."""

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
    """Texts for experts and for the documents of the protocol.

    Attributes:
        title: title of the page, unless `review.title` is set.
        request: the request to experts in the consent text.
        task: the expert's task for one item.
        risks: a sentence on the content that experts may read.
        shows, limits: what the review can show, and its limits.
        drawing: the order in which items are drawn.
        measure, secondary, coding: the main measure, secondary measures, and how answers are coded.
        training: prior knowledge of the experts.
        collected: data kept of an answer.
        sides: placement of the replies; "" if an item does not have two.
    """

    title: str
    request: str
    task: str
    risks: str
    shows: str
    limits: str
    drawing: str
    measure: str
    secondary: str
    coding: str
    training: str
    collected: str
    sides: str = ""


class ItemKind(ABC):
    """Strategy for one kind of item.

    Attributes:
        name: the kind's name in plan.json.
        what: name of the items in messages.
        template: name of the form's template.
        draws_all: True if every candidate becomes an item unless `review.items` is typed.
        without_effect: keys below `review` without effect on this kind; typing one is refused.
    """

    name: ClassVar[str]
    what: ClassVar[str]
    template: ClassVar[str]
    texts: ClassVar[KindTexts]
    draws_all: ClassVar[bool] = False
    without_effect: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def holds(self, data: str) -> bool:
        """True if `data` holds items of this kind."""

    @abstractmethod
    def candidates(self, data: str) -> Sequence[ItemCandidate]:
        """Return everything in `data` that experts could be asked about.

        Raises:
            UserError: if there is nothing, or it cannot be read.
        """

    @abstractmethod
    def item(self, row: Mapping[str, Any]) -> ItemCandidate:
        """Return the candidate from a row of items.jsonl."""

    @abstractmethod
    def drawn_line(self, drawn: Sequence[Drawn], candidates: int) -> str:
        """Return the line that tells the study's organiser how many items were drawn from `candidates` candidates."""

    @abstractmethod
    def shown(self, item: Any, shown: Shown, options: Any, rubric: Rubric) -> dict[str, Any]:
        """Return the template's values for this kind, in addition to those of every kind."""

    @property
    @abstractmethod
    def fields(self) -> frozenset[str]:
        """Names of the form's fields, in addition to `comment` and `seconds`."""

    @abstractmethod
    def said(self, form: Form) -> dict[str, Any]:
        """Return the answer as fields of this kind.

        Raises:
            BadForm: if a required value is missing, or a value is not offered by the page.
        """

    @abstractmethod
    def label(self, given: Mapping[str, Any], rubric: Rubric) -> str:
        """Return an answer in a few words, for the expert's list of answers."""

    @abstractmethod
    def counted(self, each: ItemAnswer) -> Row:
        """Return the columns of answers.jsonl that hold the answer itself."""

    @abstractmethod
    def write_tables(self, files: ReviewDir, given: Sequence[ItemAnswer]) -> None:
        """Write the tables of this kind, other than answers.jsonl, readable only by their owner."""

    def answer_of(self, form: Form, elapsed: float | None) -> dict[str, Any]:
        """Return the answer to an item: the fields of `said`, `comment` and `seconds`.

        `elapsed` is the time in seconds since the server showed the item, or None if unknown. `seconds` is the time
        that the page was visible, limited by `elapsed` (see `seconds_of`).

        Raises:
            BadForm: if a required value is missing, or a field or value is not offered by the page.
        """
        only(form, {"comment", "seconds", *self.fields})
        return {
            **self.said(form),
            "comment": text_of(form, "comment"),
            "seconds": seconds_of(form, elapsed),
        }

    def answer_rows(self, raters: Mapping[str, RaterProgress], items: Mapping[str, ItemCandidate]) -> Iterator[Row]:
        """Yield a row for each answer that counts, with the columns of docs/agreement.md, then `changed` and `time`."""
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
