"""Agreement as lines for a terminal: a table for each part, with intervals and without texts."""

import math
from collections.abc import Iterator, Sequence

from psychocounsel.evaluation.statistics.measure import Measure
from psychocounsel.experts.agreement.agreement_parts import Found
from psychocounsel.experts.agreement.rater_errors import Consensus

_NAMES = {
    "raw": "raw",
    "cohen": "kappa",
    "fleiss": "Fleiss",
    "ac1": "AC1",
    "alpha": "alpha",
    "weighted_cohen": "weighted kappa",
    "ac2": "AC2",
    "weighted_alpha": "ordinal alpha",
    "icc_2_1": "ICC(2,1)",
    "icc_2_k": "ICC(2,k)",
    "spearman": "Spearman",
}
_NOMINAL = ("raw", "cohen", "fleiss", "ac1", "alpha")
_ORDINAL = ("raw", "weighted_cohen", "ac2", "weighted_alpha", "icc_2_1", "icc_2_k", "spearman")
_TITLES = {
    "choices": "Between raters: choices",
    "label": "Each rater and the dataset's label",
    "expected": "Each rater and the dataset's expected values",
    "ratings": "Between raters: ratings",
    "repeats": "Each rater with themselves, on repeated items",
}
_ABOUT, _COUNT, _FIGURE = 26, 9, 21  # widths of columns, in characters


def lines_of(parts: Sequence[Found], raters: Consensus | None, disagreements: int) -> Iterator[str]:
    """Yield the lines of all parts, of the raters' estimated accuracy, and of the number of items to adjudicate."""
    for part, title in _TITLES.items():
        found = [each for each in parts if each.part == part]
        if found:
            yield f"\n{title}"
        for names in (_NOMINAL, _ORDINAL):
            if rows := [each for each in found if (names is _ORDINAL) == ("icc_2_1" in each.figures)]:
                yield from _table(rows, names)
    if raters is not None:
        yield "\nEstimated accuracy of each rater (model of Dawid and Skene)"
        for name, accuracy in raters.accuracy.items():
            yield f"  {name:<{_ABOUT}}{_figure(accuracy)}"
    yield f"\n{disagreements} items need adjudication. Intervals are 95 %, over resampled speeches."


def _table(found: Sequence[Found], names: Sequence[str]) -> Iterator[str]:
    names = [name for name in names if any(name in each.figures for each in found)]
    head = "".join(f"{_NAMES[name]:<{_FIGURE}}" for name in names)
    yield f"  {'':<{_ABOUT}}{'items':<{_COUNT}}{'speeches':<{_COUNT}}{'raters':<{_COUNT}}{head}".rstrip()
    for each in found:
        counts = "".join(f"{count:<{_COUNT}}" for count in (each.items, each.speeches, each.raters))
        figures = "".join(f"{_figure(each.figures.get(name)):<{_FIGURE}}" for name in names)
        yield f"  {each.about:<{_ABOUT}}{counts}{figures}".rstrip()


def _figure(value: Measure | None) -> str:
    if value is None or math.isnan(value.value):
        return "-"
    interval = "" if math.isnan(value.low) else f" [{value.low:.2f}, {value.high:.2f}]"
    return f"{value.value:.2f}{interval}"
