"""Tests of pauses: after items at risk in a row, after a long stretch, and for the day."""

from datetime import UTC, datetime, timedelta

from psychocounsel.experts.review.progress import AnsweredItem, Limits, pause_of

LIMITS = Limits(crisis_in_a_row=3, at_once=45 * 60, a_day=120 * 60, pause=10 * 60)
START = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)


def done(*minutes: float, seconds: float = 60, crisis: bool = False) -> list[AnsweredItem]:
    """Return items answered at these minutes after nine."""
    return [AnsweredItem(START + timedelta(minutes=each), seconds, crisis) for each in minutes]


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def test_three_clients_at_risk_in_a_row_are_followed_by_a_pause_before_a_fourth() -> None:
    answered = done(1, 2, 3, crisis=True)
    pause = pause_of(answered, True, LIMITS, at(4))
    assert pause is not None and (pause.why, pause.until) == ("crisis", at(13))
    assert pause_of(answered, False, LIMITS, at(4)) is None
    assert pause_of(answered[:2], True, LIMITS, at(4)) is None
    assert pause_of([*answered, *done(4)], True, LIMITS, at(5)) is None
    assert pause_of(answered, True, LIMITS, at(13.1)) is None


def test_a_gap_as_long_as_a_pause_is_one() -> None:
    answered = done(1, 2, crisis=True) + done(15, crisis=True)  # between minutes 2 and 14 no item was open
    assert pause_of(answered, True, LIMITS, at(16)) is None


def test_a_long_stretch_is_followed_by_a_pause() -> None:
    answered = done(*range(4, 46, 3), seconds=180)
    assert pause_of(answered, False, LIMITS, at(46)) is None
    pause = pause_of([*answered, *done(46, seconds=180)], False, LIMITS, at(47))
    assert pause is not None and (pause.why, pause.until) == ("stretch", at(56))


def test_enough_for_a_day_ends_at_midnight() -> None:
    answered = done(*range(0, 12 * 60, 60), seconds=600)  # twelve items of ten minutes each
    pause = pause_of(answered, False, LIMITS, at(13 * 60))
    assert pause is not None and (pause.why, pause.until) == ("day", datetime(2026, 3, 2, tzinfo=UTC))
    assert pause_of(answered[1:], False, LIMITS, at(13 * 60)) is None
    assert pause_of(answered, False, LIMITS, datetime(2026, 3, 2, 0, 1, tzinfo=UTC)) is None


def test_a_page_that_was_left_open_counts_for_fifteen_minutes() -> None:
    answered = done(0, seconds=8 * 3600)
    assert pause_of(answered, False, LIMITS, at(1)) is None
