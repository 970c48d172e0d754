"""Contests of win-rate evaluations and their charts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.reporting.blocks import Chart
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.sections.evaluations.figure_cells import Figures, name_in, points, words_limit
from psychocounsel.studies.tables.formats import Cell


@dataclass(frozen=True)
class Contest:
    """An opponent of an evaluation under one length limit, with the figures of the evaluated model against it."""

    run: RunMaterial
    opponent: str
    limit: int | None
    figures: Figures

    @property
    def model(self) -> str:
        return str(self.run.figures["model"])

    @property
    def head(self) -> list[Cell]:
        return [self.run.title, self.model, self.opponent, words_limit(self.limit)]

    def title(self, runs: Sequence[RunMaterial]) -> str:
        return name_in(self.run, f"{self.model} against {self.opponent}", runs, words_limit(self.limit))


def contests_of(run: RunMaterial) -> Iterator[Contest]:
    for variant in run.figures["variants"]:
        for opponent, found in variant["opponents"].items():
            yield Contest(run, opponent, variant["length_limit"], found)


def overview_chart(contests: Sequence[Contest], runs: Sequence[RunMaterial]) -> list[Chart]:
    """Return a chart of both main figures of every contest, side by side."""
    curves = []
    for number, (title, key) in enumerate({"win rate": "overall", "at equal length": "length_controlled"}.items()):
        rates = {place: each.figures[key]["win_rate"] for place, each in enumerate(contests)}
        curves += points(title, rates, "comparison", number, 2)
    ticks = [each.title(runs) for each in contests]
    notes = ["At one half, both models are preferred equally often.", "Bars are 95 % intervals over speeches."]
    title = "Win rates with their intervals"
    chart = Chart("win-rate-overview", title, "win rate", curves, ticks=ticks, reference=0.5, notes=notes)
    return [chart] if curves else []


def principle_chart(contests: Sequence[Contest], runs: Sequence[RunMaterial]) -> list[Chart]:
    """Return a chart of the win rates on each principle, for contests whose judges rate principles."""
    shown = [each for each in contests if each.figures["principles"]]
    curves = []
    for number, each in enumerate(shown):
        found = each.figures["principles"]
        rates = {place: found[name]["win_rate"] for place, name in enumerate(PRINCIPLES) if name in found}
        curves += points(each.title(runs), rates, "principle", number, len(shown))
    notes = ["At one half, both models are preferred equally often on this principle."]
    title = "Win rates on each principle"
    chart = Chart("win-rate-principles", title, "win rate", curves, ticks=PRINCIPLES, reference=0.5, notes=notes)
    return [chart] if curves else []
