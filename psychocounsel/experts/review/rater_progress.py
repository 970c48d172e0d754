"""The progress of one expert, computed from the event log of the review."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from psychocounsel.experts.items.assignment import Shown
from psychocounsel.experts.review.event_log import Event
from psychocounsel.experts.review.exposure import Done

CONSENT, PRACTICE, ANSWER, STOP, WITHDRAWN = "consent", "practice", "answer", "stop", "withdrawn"
Place = tuple[str, int]  # an item's id, and whether it is shown for the second time


@dataclass
class RaterProgress:
    """One expert.

    Attributes:
        shown: what they see, in order.
        crisis: of each item, whether the client is at risk.
        consent: the version of the consent text that they agreed to last.
        withdrawn: whether they took everything back.
        practice: their answers to practice items, in order.
        answers: of each item that they answered, all answers; the last one counts.
        done: what they answered or changed, in order of time.
    """

    shown: Sequence[Shown]
    crisis: Mapping[str, bool]
    consent: str | None = None
    withdrawn: bool = False
    practice: list[Event] = field(default_factory=list)
    answers: dict[Place, list[Event]] = field(default_factory=dict)
    done: list[Done] = field(default_factory=list)

    def apply(self, event: Event) -> None:
        """Take account of an event of this expert."""
        match event["kind"]:
            case "consent":
                self.consent = event["version"]
            case "withdrawn":
                self.withdrawn = True
            case "practice":
                self.practice.append(event)
            case "answer":
                self.answers.setdefault((event["item"], event["repeat"]), []).append(event)
                self.done.append(
                    Done(datetime.fromisoformat(event["time"]), event["seconds"], self.crisis[event["item"]])
                )

    @property
    def next(self) -> Shown | None:
        """The first item without an answer."""
        return next((each for each in self.shown if (each.item, each.repeat) not in self.answers), None)

    def at(self, item: str, repeat: int) -> Shown | None:
        """An item that this expert sees; None if it is none of theirs."""
        return next((each for each in self.shown if (each.item, each.repeat) == (item, repeat)), None)

    def practice_rounds(self, count: int) -> list[float]:
        """The share of right answers in each whole round of `count` practice items, which is 1 or more."""
        right = [bool(event["right"]) for event in self.practice]
        whole = len(right) // count * count
        return [sum(right[at : at + count]) / count for at in range(0, whole, count)]
