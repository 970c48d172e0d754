"""Reports of usable but suspicious rows and of dropped rows; rows are never changed."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from psychocounsel.data.rows import Example
from psychocounsel.errors import UserError

_SHOWN = 20  # dropped rows whose reason is printed


def warn(examples: Sequence[Example], name: str, report: Callable[[str], None]) -> None:
    """Report how many rows repeat earlier ones, hold NUL bytes, or have two client turns in a row."""
    distinct = {(repr(example.prompt), *example.replies) for example in examples}
    counts = {
        "are the same as an earlier one": len(examples) - len(distinct),
        "hold NUL bytes": sum(map(_has_nul, examples)),
        "hold two client turns in a row": sum(map(_has_two_turns, examples)),
    }
    for what, count in counts.items():
        if count:
            report(f"warning: {name}: {count} of {len(examples)} rows {what}")


def report_dropped(dropped: Sequence[str] | None, rows: int, name: str, report: Callable[[str], None]) -> None:
    """Report how many of `rows` rows could not be used, and the first reasons.

    Raises:
        UserError: if no row is left.
    """
    if not dropped:
        return
    if len(dropped) == rows:
        raise UserError(f"{name}: none of its rows can be used ({dropped[0]})")
    report(f"warning: {name}: {len(dropped)} bad rows dropped (data.bad_rows=drop)")
    for reason in dropped[:_SHOWN]:
        report(f"  {reason}")
    if len(dropped) > _SHOWN:
        report(f"  and {len(dropped) - _SHOWN} more")


def _has_nul(example: Example) -> bool:
    return any("\0" in text for text in [*(message["content"] for message in example.prompt), *example.replies])


def _has_two_turns(example: Example) -> bool:
    roles = [message["role"] for message in example.prompt]
    return any(first == second == "user" for first, second in pairwise(roles))
