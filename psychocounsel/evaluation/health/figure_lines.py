"""Printed figures of the evaluations that return no blocks yet: shares, intervals, and a table of one or two contestants."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from psychocounsel.evaluation.health.reply import Figure

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
