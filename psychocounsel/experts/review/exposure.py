"""Pauses of an expert: after several items at risk in a row, after a long stretch, and after enough work in a day."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

_MOST = 15 * 60.0  # seconds counted per item at most, because an open page is not work


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
class Done:
    """An answered item: the time of the answer, the seconds it took, and whether the client is at risk."""

    time: datetime
    seconds: float
    crisis: bool


@dataclass(frozen=True)
class Pause:
    """A pause: no item is shown before `until`. `why`: crisis, stretch or day."""

    why: str
    until: datetime


def pause_of(done: Sequence[Done], next_is_crisis: bool, limits: Limits, now: datetime) -> Pause | None:
    """Return the pause that is due, or None. Days are in the time zone of `now`; a gap as long as a pause counts as a pause."""
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
    """Return the items answered since the last gap as long as a pause."""
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
