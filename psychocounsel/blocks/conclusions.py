"""Conclusions: what a run's figures say, in the sentences and the word that the terminal, summary.json, `jobs status` and
the report share.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psychocounsel.blocks.cells import Figures
from psychocounsel.blocks.kinds import Paragraph

UNDECIDED = "undecided"
HALF = 0.5  # both models are preferred equally often; a judge that guesses is right this often


@dataclass(frozen=True)
class Bar:
    """A share with its 95 % interval, as a row of the report's first chart, in which one half means no difference."""

    title: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Conclusion:
    """What a run says about one question.

    Attributes:
        word: the verdict: wins, loses, undecided, within, beyond, ...
        text: the verdict with its figure, as a person would say it.
        tone: good, undecided, warning (a figure that is in doubt) or bad.
        cautions: reasons to distrust the figure. They are shown with the text wherever it is shown.
        missing: what would decide it, or make it surer.
        bars: the shares behind the sentence.
    """

    word: str
    text: str
    tone: str
    cautions: Sequence[str] = ()
    missing: Sequence[str] = ()
    bars: Sequence[Bar] = ()

    @property
    def paragraph(self) -> Paragraph:
        return Paragraph("\n".join([self.text, *self.cautions]), self.tone)


def against_half(low: float | None, high: float | None) -> int | None:
    """Return 1 if the whole interval lies above one half, -1 if below, and None if it cannot tell."""
    if low is None or high is None or low <= HALF <= high:
        return None
    return 1 if low > HALF else -1


def bar_of(title: str, figures: Figures) -> list[Bar]:
    """Return a share with its interval as a bar; none without an interval."""
    value, low, high = figures.get("value"), figures.get("low"), figures.get("high")
    return [] if value is None or low is None or high is None else [Bar(title, value, low, high)]


def recorded(conclusions: Iterable[Conclusion]) -> list[dict[str, Any]]:
    """Return the conclusions as summary.json holds them under `verdicts`."""
    return [
        {"word": conclusion.word, "text": conclusion.text, "cautions": [*conclusion.cautions]}
        for conclusion in conclusions
    ]


def are_verdicts(value: Any) -> bool:
    """Return True for verdicts in the form that `recorded` gives them, and for none."""
    return value is None or (
        isinstance(value, list)
        and all(
            isinstance(each, dict)
            and isinstance(each.get("word"), str)
            and isinstance(each.get("text"), str)
            and isinstance(each.get("cautions"), list)
            for each in value
        )
    )


def _verdicts(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    verdicts = summary.get("verdicts")
    return (verdicts or []) if are_verdicts(verdicts) else []


def verdict_words(summary: Mapping[str, Any]) -> str:
    """Return the verdicts of a summary.json in a few words: `undecided`, or `in doubt, wins`; "" without readable ones."""
    return ", ".join(dict.fromkeys(verdict["word"] for verdict in _verdicts(summary)))


def verdict_lines(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield the sentences of a summary.json, each followed by its cautions."""
    for verdict in _verdicts(summary):
        yield verdict["text"]
        yield from (f"  warning: {caution}" for caution in verdict["cautions"])
