"""Progress of one expert, computed from the review's event log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from psychocounsel.experts.items.assignment import Shown
from psychocounsel.experts.review.event_log import Event
from psychocounsel.experts.review.exposure import Done

CONSENT, PRACTICE, ANSWER, STOP, WITHDRAWN = "consent", "practice", "answer", "stop", "withdrawn"
Place = tuple[str, int]  # item id, and 1 if it is shown for the second time


@dataclass
class RaterProgress:
    """Progress of one expert.

    Attributes:
        shown: the expert's items, in order.
        crisis: by item, True if the client is at risk.
        consent: version of the consent text that the expert agreed to last.
        withdrawn: True if the expert withdrew.
        practice: answers to practice items, in order.
        answers: by item, all answers; the last one counts.
        done: answers and changes, in order of time.
    """

    shown: Sequence[Shown]
    crisis: Mapping[str, bool]
    consent: str | None = None
    withdrawn: bool = False
    practice: list[Event] = field(default_factory=list)
    answers: dict[Place, list[Event]] = field(default_factory=dict)
    done: list[Done] = field(default_factory=list)

    def apply(self, event: Event) -> None:
        """Update the progress by an event of this expert."""
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
        """First item without an answer, or None."""
        return next((each for each in self.shown if (each.item, each.repeat) not in self.answers), None)

    def at(self, item: str, repeat: int) -> Shown | None:
        """Return an item of this expert, or None if it is not assigned to them."""
        return next((each for each in self.shown if (each.item, each.repeat) == (item, repeat)), None)

    def practice_rounds(self, count: int) -> list[float]:
        """Return the share of right answers in each complete round of `count` (at least 1) practice items."""
        right = [bool(event["right"]) for event in self.practice]
        whole = len(right) // count * count
        return [sum(right[at : at + count]) / count for at in range(0, whole, count)]
