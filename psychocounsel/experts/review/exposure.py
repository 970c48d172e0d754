"""When an expert must pause: after items at risk in a row, after a long stretch, and after enough for a day."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

_MOST = 15 * 60.0  # seconds that one item counts for: whoever leaves the page open is not at work


@dataclass(frozen=True)
class Limits:
    """`crisis_in_a_row`: items. `at_once`, `a_day`, `pause`: seconds."""

    crisis_in_a_row: int
    at_once: float
    a_day: float
    pause: float

    @classmethod
    def of(cls, options: Any) -> "Limits":
        minutes = [60.0 * options[name] for name in ("minutes_at_once", "minutes_a_day", "break_minutes")]
        return cls(options.crisis_in_a_row, *minutes)


@dataclass(frozen=True)
class Done:
    """An item that was answered: when, after how many seconds, and whether the client is at risk."""

    time: datetime
    seconds: float
    crisis: bool


@dataclass(frozen=True)
class Pause:
    """No item is shown before `until`. `why`: crisis, stretch or day."""

    why: str
    until: datetime


def pause_of(done: Sequence[Done], next_is_crisis: bool, limits: Limits, now: datetime) -> Pause | None:
    """The pause that is due, if any. Days are those of the time zone of `now`; a gap as long as a pause is one."""
    today = [each for each in done if each.time.astimezone(now.tzinfo).date() == now.date()]
    if _seconds(today) >= limits.a_day:
        midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        return Pause("day", midnight)
    stretch = _stretch(done, limits.pause, now)
    if not stretch:
        return None
    until = stretch[-1].time + timedelta(seconds=limits.pause)
    in_a_row = next((at for at, each in enumerate(reversed(stretch)) if not each.crisis), len(stretch))
    if next_is_crisis and in_a_row >= limits.crisis_in_a_row:
        return Pause("crisis", until)
    return Pause("stretch", until) if _seconds(stretch) >= limits.at_once else None


def _stretch(done: Sequence[Done], pause: float, now: datetime) -> list[Done]:
    """What was answered since the last gap that was as long as a pause."""
    found, later = list[Done](), now
    for each in reversed(done):
        begun = later if later is now else later - timedelta(seconds=min(found[-1].seconds, _MOST))
        if (begun - each.time).total_seconds() >= pause:
            break
        found.append(each)
        later = each.time
    return found[::-1]


def _seconds(done: Iterable[Done]) -> float:
    return sum(min(each.seconds, _MOST) for each in done)
