"""Progress of one expert, their pauses, and the answers that count."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from psychocounsel.experts.items.candidates import Shown
from psychocounsel.experts.review.log import PRIVATE, Event
from psychocounsel.storage.files import write_atomically

# Pauses

_MOST_SECONDS = 15 * 60.0  # seconds counted per item at most, because an open page is not work


@dataclass(frozen=True)
class Limits:
    """Limits of exposure: `crisis_in_a_row` in items; `at_once`, `a_day` and `pause` in seconds."""

    crisis_in_a_row: int
    at_once: float
    a_day: float
    pause: float

    @classmethod
    def of(cls, options: Any) -> "Limits":
        minutes = [60.0 * options[name] for name in ("minutes_at_once", "minutes_a_day", "break_minutes")]
        return cls(options.crisis_in_a_row, *minutes)


@dataclass(frozen=True)
class AnsweredItem:
    """An answered item: the time of the answer, the seconds it took, and whether the client is at risk."""

    time: datetime
    seconds: float
    crisis: bool


@dataclass(frozen=True)
class Pause:
    """A pause: no item is shown before `until`. `why`: crisis, stretch or day."""

    why: str
    until: datetime


def pause_of(done: Sequence[AnsweredItem], next_is_crisis: bool, limits: Limits, now: datetime) -> Pause | None:
    """Return the pause that is due, or None. Days are in the time zone of `now`; a gap as long as a pause counts as a pause."""
    today = [item for item in done if item.time.astimezone(now.tzinfo).date() == now.date()]
    if _seconds(today) >= limits.a_day:
        midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        return Pause("day", midnight)
    stretch = _stretch(done, limits.pause, now)
    if not stretch:
        return None
    until = stretch[-1].time + timedelta(seconds=limits.pause)
    in_a_row = next((at for at, item in enumerate(reversed(stretch)) if not item.crisis), len(stretch))
    if next_is_crisis and in_a_row >= limits.crisis_in_a_row:
        return Pause("crisis", until)
    return Pause("stretch", until) if _seconds(stretch) >= limits.at_once else None


def _stretch(done: Sequence[AnsweredItem], pause: float, now: datetime) -> list[AnsweredItem]:
    """Return the items answered since the last gap as long as a pause."""
    stretch, later = list[AnsweredItem](), now
    for item in reversed(done):
        begun = later if later is now else later - timedelta(seconds=min(stretch[-1].seconds, _MOST_SECONDS))
        if (begun - item.time).total_seconds() >= pause:
            break
        stretch.append(item)
        later = item.time
    return stretch[::-1]


def _seconds(done: Iterable[AnsweredItem]) -> float:
    return sum(min(item.seconds, _MOST_SECONDS) for item in done)


# Progress, computed from the review's event log

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
    done: list[AnsweredItem] = field(default_factory=list)

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
                    AnsweredItem(datetime.fromisoformat(event["time"]), event["seconds"], self.crisis[event["item"]])
                )

    @property
    def next(self) -> Shown | None:
        """First item without an answer, or None."""
        return next((entry for entry in self.shown if (entry.item, entry.repeat) not in self.answers), None)

    def at(self, item: str, repeat: int) -> Shown | None:
        """Return an item of this expert, or None if it is not assigned to them."""
        return next((entry for entry in self.shown if (entry.item, entry.repeat) == (item, repeat)), None)

    def practice_rounds(self, count: int) -> list[float]:
        """Return the share of right answers in each complete round of `count` (at least 1) practice items."""
        right = [bool(event["right"]) for event in self.practice]
        whole = len(right) // count * count
        return [sum(right[at : at + count]) / count for at in range(0, whole, count)]


# Answers that count, with their items


@dataclass(frozen=True)
class ItemAnswer:
    """An item with an expert's answer. `history` holds all answers to it; the last one counts."""

    expert: str
    shown: Shown
    item: Any
    history: Sequence[Event]

    @property
    def last(self) -> Event:
        return self.history[-1]


def item_answers(raters: Mapping[str, RaterProgress], items: Mapping[str, Any]) -> Iterator[ItemAnswer]:
    """Yield all answered items of experts who have not withdrawn, in the order shown to them."""
    for expert, rater in raters.items():
        for shown in rater.shown:
            history = rater.answers.get((shown.item, shown.repeat))
            if history and not rater.withdrawn:
                yield ItemAnswer(expert, shown, items[shown.item], history)


def write_table(path: Path, text: str) -> None:
    """Write a table that only its owner can read, without fsync, because it can be rebuilt from the log."""
    write_atomically(path, text, durable=False, mode=PRIVATE)
