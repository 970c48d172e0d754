"""Section on trade-offs: win rate or reward against length, divergence and safety, with the best settings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from psychocounsel.reporting.blocks import Block, Chart, Curve, Paragraph, ReportTable, Section
from psychocounsel.reporting.material import Material
from psychocounsel.reporting.sections.comparing.judged_runs import JUDGED, judged_runs
from psychocounsel.reporting.sections.comparing.setting_groups import RunSetting, listed, settings_of
from psychocounsel.rundir.summary import smaller_is_better
from psychocounsel.studies.tables.formats import Cell, Table
from psychocounsel.studies.tables.runs import TableFigure, is_share, of_setting

_GOODS = (JUDGED, "eval/win_rate", "eval/reward", "eval/accuracy")  # the first that two settings have is used
_COSTS = {
    "eval/length": "length (tokens)",
    "eval/kl": "KL from the reference (nats per reply)",
    "eval/unfinished": "unfinished (share)",
}
_SAFETY = ("safety", "crisis", "risk")


@dataclass(frozen=True)
class TradeOff:
    """A setting as a point: its benefit (`good`) and its cost."""

    setting: RunSetting
    good: TableFigure
    cost: TableFigure


def section(material: Material) -> Section:
    settings = [setting for setting in settings_of(judged_runs(material)) if setting.finished]
    good = next((key for key in _GOODS if sum(of_setting(each, key) is not None for each in settings) > 1), None)
    blocks: list[Block] = []
    if good is not None:
        for key, title in _costs(settings).items():
            blocks += _chart(good, key, title, settings)
    return Section("pareto", "Trade-offs", blocks)


def _costs(settings: Sequence[RunSetting]) -> dict[str, str]:
    """Return the known costs, then every metric whose name mentions safety, crisis or risk."""
    runs = [run for setting in settings for run in setting.finished]
    keys = dict.fromkeys(key for run in runs for key in (run.summary.get("metrics") or {}).get("best") or {})
    safety = [key for key in keys if any(word in key for word in _SAFETY) and not key.endswith(("_low", "_high"))]
    return {**{key: title for key, title in _COSTS.items() if key in keys}, **{key: key for key in sorted(safety)}}


def _chart(good: str, cost: str, title: str, settings: Sequence[RunSetting]) -> Iterator[Block]:
    points = [
        TradeOff(setting, value, price)
        for setting in settings
        if (value := of_setting(setting, good, is_share(good))) and (price := of_setting(setting, cost, is_share(cost)))
    ]
    if len(points) < 2:
        return
    smaller = cost in _COSTS or smaller_is_better(cost, "auto")
    best = front(points, smaller)
    names = [point.setting.title for point in best]
    name, what = cost.rpartition("/")[2].replace("_", "-"), _named(good)
    line = Curve("best trade-offs", {title: [point.cost.value for point in best]}, [point.good.value for point in best])
    curves = [_point(point, title) for point in points]
    more = "less" if smaller else "more"
    notes = [
        "each point is a setting (mean over its seeds) with its 95 % interval",
        f"better: further up, and {more} on the x axis",
    ]
    yield Chart(
        f"pareto-{name}", f"{what} against {title}", what, [*curves, *([line] if len(best) > 1 else [])], notes=notes
    )
    few = min(point.good.n for point in points) == 1
    caution = " Some points are single runs, so this line may be due to chance." if few else ""
    means = "no other setting is better in one and not worse in the other"
    yield Paragraph(f"Best trade-offs of {what} and {title} ({means}): {listed(names, 12)}.{caution}")
    yield _table(f"pareto-{name}", good, cost, points, best)


def front(points: Sequence[TradeOff], smaller: bool) -> list[TradeOff]:
    """Return the points on the Pareto front, sorted by cost; `smaller`: a smaller cost is better.

    For a point on the front, no other point is better in one figure and not worse in the other.
    """
    sign = 1 if smaller else -1

    def beats(point: TradeOff, other: TradeOff) -> bool:
        gains = (other.good.value - point.good.value, sign * (point.cost.value - other.cost.value))
        return min(gains) >= 0 and max(gains) > 0

    kept = [point for point in points if not any(map(partial(beats, point), points))]
    return sorted(kept, key=lambda point: point.cost.value)


def _point(point: TradeOff, axis: str) -> Curve:
    low, high = point.good.low, point.good.high
    ends = None if low is None or high is None else ([low], [high])
    curve = Curve(point.setting.title, {axis: [point.cost.value]}, [point.good.value], points=True)
    return curve if ends is None else replace(curve, low=ends[0], high=ends[1])


def _table(name: str, good: str, cost: str, points: Sequence[TradeOff], best: Sequence[TradeOff]) -> ReportTable:
    rows: list[list[Cell]] = [
        [point.setting.title, point.good, point.cost, "yes" if any(point is each for each in best) else ""]
        for point in points
    ]
    headings = ["setting", _named(good), _named(cost), "best trade-off"]
    return ReportTable(name, Table(f"{_named(good)} against {_named(cost)}", headings, rows))


def _named(metric: str) -> str:
    return "win rate by judges" if metric == JUDGED else metric.removeprefix("eval/")
