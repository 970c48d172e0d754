"""Printed figures: parts that several evaluations use, and the table of `evaluation=health`, without any text of a reply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from psychocounsel.evaluation.health.figures import EXCEEDED, KEPT
from psychocounsel.evaluation.health.reply import FIGURES, Figure
from psychocounsel.metrics.win_rates import SMALL

# Parts of printed figures: shares, intervals, and a table of one contestant or of two side by side.

Found = Mapping[str, Any]  # a figure as `means` or `compare` returns it


def interval_text(found: Found, scale: float = 100, digits: int = 1, sign: str = "") -> str:
    """Return the ends `low` and `high` times `scale`, such as ` (36.0 to 52.1)`; "" if they are unknown.

    With `sign="+"`, positive ends are printed with a plus sign, as differences are.
    """
    if found["low"] is None:
        return ""
    return f" ({scale * found['low']:{sign}.{digits}f} to {scale * found['high']:{sign}.{digits}f})"


def share_text(found: Found) -> str:
    """Return the mean as `44.0 % (36.0 to 52.1)`."""
    return f"{100 * found['mean']:.1f} %{interval_text(found)}"


@dataclass(frozen=True)
class FigureTable:
    """Printed table with a line for each figure.

    Attributes:
        figures: definitions of the figures, by key.
        cluster: unit over which intervals are computed, such as "speech".
        title_width, value_width: widths of the columns of titles and values [characters].
        counted: keys of the figures with a unit of their own. All other figures are shares, printed in per cent.
    """

    figures: Mapping[str, Figure]
    cluster: str
    title_width: int
    value_width: int
    counted: tuple[str, ...] = ()

    def alone(self, figures: Mapping[str, Found]) -> Iterator[str]:
        """Yield the lines of one contestant. Unknown figures are skipped."""
        for name, each in figures.items():
            if each["mean"] is not None:
                value = f"{self._value(name, each['mean'])}{interval_text(each, self._scale(name))}"
                yield f"  {self._title(name)}{value}, n = {each['prompts']}"

    def against(self, other: str, compared: Mapping[str, Found]) -> Iterator[str]:
        """Yield a heading and the lines that compare a model with `other`. Unknown differences are skipped."""
        heads = f"{'':<{self.title_width}}{'model':>{self.value_width}} {'base':>{self.value_width}}"
        yield f"  {heads}  difference from {other} (95 %, by {self.cluster})"
        for name, each in compared.items():
            if each["difference"] is not None:
                sides = " ".join(f"{self._value(name, each[side]):>{self.value_width}}" for side in ("mine", "base"))
                scale = self._scale(name)
                change = f"{scale * each['difference']:+.1f}{interval_text(each, scale, sign='+')}"
                yield f"  {self._title(name)}{sides}  {change:<26}{each['verdict']}, n = {each['prompts']}"

    def _title(self, name: str) -> str:
        return f"{self.figures[name].title:<{self.title_width}}"

    def _scale(self, name: str) -> float:
        return 1 if name in self.counted else 100

    def _value(self, name: str, value: float) -> str:
        return f"{self._scale(name) * value:.1f}" + ("" if name in self.counted else " %")


# Printed table of `evaluation=health`: lines of figures, without any text of a reply.

_TITLE, _COLUMN, _INTERVAL = 38, 10, 32  # column widths [characters]
_DIGITS = {"mtld": 1, "words": 1, "characters": 0}
_WHOLE = ("repetition", "distinct_2")  # shown as percentages, although they are not shares of replies


def lines_of(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the table for the result of `summarise`."""
    for variant in summary["variants"]:
        limit = variant["length_limit"]
        yield "" if limit is None else f"\nReplies of at most {limit} words"
        for name, found in variant["settings"].items():
            others = ", ".join(f"{count} {outcome}" for outcome, count in found["outcomes"].items())
            yield f"{name}: {found['replies']} replies to {found['prompts']} speeches ({others})"
            if name not in _compared(variant):
                yield from _alone(found["figures"])
            yield from _undecided(found["limits"])
            if found["prompts"] < SMALL:
                yield f"  fewer than {SMALL} speeches: the intervals are too narrow to trust"
        for other, found in variant["against"].items():
            yield from _against(other, found)
    yield from health_warnings(summary)


def health_warnings(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield a warning for each limit that the replies of a setting exceed."""
    for variant in summary["variants"]:
        limit = variant["length_limit"]
        where = "" if limit is None else f" (replies of at most {limit} words)"
        for name, found in variant["settings"].items():
            for each in found["limits"]:
                if each["verdict"] == EXCEEDED:
                    measured = f"{_shown(each['name'], each['mean'])}{_interval(each['name'], each)}"
                    title = FIGURES[each["name"]].title
                    yield f"warning: {name}{where}: {title}: {measured}, above the limit of {100 * each['limit']:g} %"


def _compared(variant: Mapping[str, Any]) -> set[str]:
    """Return the settings whose figures a comparison table already shows."""
    return set(variant["settings"]) if variant["against"] else set()


def _alone(figures: Mapping[str, Any]) -> Iterator[str]:
    for name, each in figures.items():
        if each["mean"] is not None:
            yield f"  {FIGURES[name].title:<{_TITLE}}{_shown(name, each['mean']):>{_COLUMN}}{_interval(name, each)}"


def _against(other: str, figures: Mapping[str, Any]) -> Iterator[str]:
    yield f"  {'':<{_TITLE}}{'model':>{_COLUMN}}{'base':>{_COLUMN}}  difference from {other} (95 %, by speech)"
    for name, each in figures.items():
        if each["difference"] is None:
            yield f"  {FIGURES[name].title:<{_TITLE}}{'not known':>{_COLUMN}}"
            continue
        sides = f"{_shown(name, each['mine']):>{_COLUMN}}{_shown(name, each['base']):>{_COLUMN}}"
        change = f"  {_shown(name, each['difference'], '+')}{_interval(name, each, '+')}"
        yield f"  {FIGURES[name].title:<{_TITLE}}{sides}{change:<{_INTERVAL}}{each['verdict']}, n = {each['prompts']}"


def _undecided(limits: list[dict[str, Any]]) -> Iterator[str]:
    open_ = [each for each in limits if each["verdict"] not in (EXCEEDED, KEPT) and each["mean"] is not None]
    if open_:
        names = ", ".join(FIGURES[each["name"]].title for each in open_)
        yield f"  limits undecided, because there are too few speeches: {names}"


def _unit(name: str) -> tuple[float, int, str]:
    """Return a figure's factor, decimals and unit: per cent for shares, otherwise none."""
    return (100, 1, " %") if FIGURES[name].share or name in _WHOLE else (1, _DIGITS[name], "")


def _shown(name: str, value: float, sign: str = "") -> str:
    scale, digits, unit = _unit(name)
    return f"{scale * value:{sign}.{digits}f}{unit}"


def _interval(name: str, found: Mapping[str, Any], sign: str = "") -> str:
    scale, digits, _ = _unit(name)
    return interval_text(found, scale, digits, sign)
