"""Shares of replies or conversations with a high fault, a low fault or no fault, by dimension, with intervals by cluster."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from psychocounsel.evaluation.flows.question_flow import HIGH, LOW, NONE, NOT_ASKED
from psychocounsel.evaluation.health.health_means import means
from psychocounsel.evaluation.health.printed_figures import share_text
from psychocounsel.evaluation.health.reply_health import HIGHER, LOWER, NEITHER, Figure

Scores = Mapping[str, str]  # by dimension, as `dimension_scores` returns them

SEVERITY_FIGURES = {
    HIGH: Figure("high fault", LOWER),
    LOW: Figure("low fault", LOWER),
    NONE: Figure("no fault", HIGHER),
    NOT_ASKED: Figure("not asked", NEITHER),
}
_CELL = 25  # column width [characters]


def severity_shares(
    scores: Mapping[Any, Sequence[Scores]], dimensions: Iterable[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return, for each dimension, the shares `high`, `low`, `none` and `not_asked` with 95 % intervals by cluster.

    `high`, `low` and `none` are shares of the replies or conversations in which the dimension was asked about, and add up to
    1; `not_asked` is a share of all. Each share has the form that `means` returns.

    Args:
        scores: for each cluster (a speech or a persona), the scores of its replies or conversations.
        dimensions: the dimensions of the flow.
    """
    return {
        dimension: means(
            {cluster: [_marks(each[dimension]) for each in some] for cluster, some in scores.items()}, SEVERITY_FIGURES
        )
        for dimension in dimensions
    }


def severity_lines(shares: Mapping[str, Mapping[str, Mapping[str, Any]]], what: str) -> Iterator[str]:
    """Yield the lines of a table. `shares`: result of `severity_shares`; `what`: name of the judged items ("replies")."""
    heads = "".join(f"{figure.title:<{_CELL}}" for figure in SEVERITY_FIGURES.values())
    title = f"{what} by dimension"
    width = max(map(len, (title, *shares))) + 2
    yield f"  {title:<{width}}{heads}".rstrip()
    for dimension, found in shares.items():
        yield f"  {dimension:<{width}}{''.join(f'{_cell(found[name]):<{_CELL}}' for name in SEVERITY_FIGURES)}".rstrip()


def _marks(severity: str) -> dict[str, float | None]:
    asked = severity != NOT_ASKED
    found: dict[str, float | None] = {name: float(severity == name) if asked else None for name in (HIGH, LOW, NONE)}
    return found | {NOT_ASKED: float(not asked)}


def _cell(found: Mapping[str, Any]) -> str:
    return "-" if found["mean"] is None else share_text(found)
