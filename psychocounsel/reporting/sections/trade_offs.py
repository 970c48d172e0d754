"""Sections on over-optimisation and on trade-offs of win rate or reward against length, divergence and safety."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from psychocounsel.blocks.kinds import Block, Chart, Curve, Paragraph, ReportTable, Section
from psychocounsel.blocks.tables import Cell, Table, TableFigure
from psychocounsel.reporting.material import EVALUATION, TRAINING, Material, RunMaterial
from psychocounsel.reporting.sections.comparisons import (
    REWARD,
    RunSetting,
    contest_of,
    differing_rewards,
    listed,
    setting_title,
    settings_of,
)
from psychocounsel.rundir.results import smaller_is_better
from psychocounsel.studies.tables.curve_table import EvaluationPoint, points_of
from psychocounsel.studies.tables.runs import is_share, of_setting

# Section on over-optimisation: the trained reward and other rewards against divergence from the reference

_WIN_RATE = "eval/win_rate"
_NATS = "KL from the reference (nats per reply)"
_AXES = {_NATS: "kl", "steps": "steps", "prompts": "prompts", "GPU-hours": "gpu_hours"}

Points = Sequence[EvaluationPoint]


def overoptimisation_section(material: Material) -> Section:
    points_by_run = [(run, points) for run in material.of(TRAINING) if (points := _points(run))]
    blocks: list[Block] = []
    for key in _figures(points_by_run):
        blocks += _divergence_charts(key, points_by_run)
    return Section("overoptimisation", "Reward against divergence", [*blocks, *_divided(points_by_run)])


def _points(run: RunMaterial) -> Points:
    """Return the evaluations that have reward and divergence, one per step."""
    by_step = {point.steps: point for point in points_of(run)}
    return [point for point in by_step.values() if point.kl is not None and REWARD in point.figures]


def _figures(points_by_run: Sequence[tuple[RunMaterial, Points]]) -> list[str]:
    """Return the trained reward's key, the keys of other measured rewards, and the win rate's key."""
    keys = dict.fromkeys(key for _, points in points_by_run for point in points for key in point.figures)
    return [key for key in (REWARD, *_others(keys), _WIN_RATE) if key in keys]


def _others(keys: Sequence[str] | dict[str, None]) -> list[str]:
    return sorted(key for key in keys if key.startswith(f"{REWARD}_") and not key.endswith(("_low", "_high")))


def _divergence_charts(key: str, points_by_run: Sequence[tuple[RunMaterial, Points]]) -> Iterator[Chart]:
    curves = list[Curve]()
    for run, points in points_by_run:
        known = [point for point in points if key in point.figures]
        if known:
            places = {title: [_place(point, axis) for point in known] for title, axis in _AXES.items()}
            values, labels = [point.figures[key] for point in known], [f"step {point.steps}" for point in known]
            curves.append(Curve(run.title, places, values, labels=labels, group=setting_title(run)))
    if curves:
        name = key.removeprefix("eval/").replace("_", "-").replace("/", "-")
        trained = " (maximised by training)" if key == REWARD else ""
        reference = 0.5 if key == _WIN_RATE else None
        title = f"Held-out {key.removeprefix('eval/')}{trained} against divergence"
        yield Chart(f"divergence-{name}", title, key, curves, reference=reference)


def _place(point: EvaluationPoint, axis: str) -> float:
    value = point.at(axis)
    return 0.0 if value is None else value


def _divided(points_by_run: Sequence[tuple[RunMaterial, Points]]) -> Iterator[Paragraph]:
    """Warn of over-optimisation: the trained reward still rises while another figure falls."""
    if not points_by_run:
        return
    keys = [key for key in _figures(points_by_run) if key != REWARD]
    if not keys:
        how = "reward=ensemble with its members, or eval/win_rate"
        yield Paragraph(f"No second reward was measured ({how}), so over-optimisation cannot be detected.", "warning")
    for run, points in points_by_run:
        for key in keys:
            yield from _of_figure(run.title, key, [point for point in points if key in point.figures])


def _of_figure(title: str, key: str, known: Points) -> Iterator[Paragraph]:
    if len(known) < 3:
        return
    top, last = max(known, key=lambda point: point.figures[key]), known[-1]
    (high, low), (before, after) = ((top.figures[figure], last.figures[figure]) for figure in (key, REWARD))
    surely_high, surely_low = top.figures.get(f"{key}_low"), last.figures.get(f"{key}_high")
    has_intervals = surely_high is not None and surely_low is not None
    falls = surely_low < surely_high if surely_high is not None and surely_low is not None else low < high
    if falls and after > before:
        yield Paragraph(
            f"{title}: {key} is highest at step {top.steps} ({top.kl:.3g} nats), then falls from {high:.4g} to {low:.4g} while "
            f"{REWARD} rises from {before:.4g} to {after:.4g}: a sign of over-optimisation"
            + ("." if has_intervals else ", or chance (it has no interval)."),
            "warning",
        )


# Training runs with the win rates that separate evaluations measured for their models

JUDGED = "judged/win_rate"
_OF_EVALUATION = {JUDGED: "win_rate", f"{JUDGED}_low": "win_rate_low", f"{JUDGED}_high": "win_rate_high"}


def judged_runs(material: Material) -> list[RunMaterial]:
    """Return training runs. If exactly one finished `evaluation=winrate` judged a run's model, the run gets the figure JUDGED."""
    evaluations = defaultdict[Path, list[RunMaterial]](list)
    for run in material.of(EVALUATION):
        if run.what == "winrate" and run.is_finished and run.evaluates is not None:
            evaluations[run.evaluates].append(run)
    return [_with_win_rate(run, evaluations[run.path]) for run in material.of(TRAINING)]


def _with_win_rate(run: RunMaterial, evaluations: Sequence[RunMaterial]) -> RunMaterial:
    """Return the run with the win rate of its evaluation. Several evaluations are ignored: their judges or opponents differ."""
    metrics: dict[str, Any] = run.summary.get("metrics") or {}
    if len(evaluations) != 1 or "best" not in metrics:
        return run
    judged = evaluations[0].summary.get("metrics") or {}
    figures = {name: judged[key] for name, key in _OF_EVALUATION.items() if key in judged}
    summary = {**run.summary, "metrics": {**metrics, "best": {**(metrics["best"] or {}), **figures}}}
    return replace(run, summary=summary, figures={**run.figures, JUDGED: contest_of(evaluations[0])})


# Section on trade-offs, with the best settings

_GOODS = (JUDGED, "eval/win_rate", REWARD, "eval/accuracy")  # the first that two settings have is used
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


def pareto_section(material: Material) -> Section:
    settings = [setting for setting in settings_of(judged_runs(material)) if setting.finished]
    good = next((key for key in _GOODS if _compares(key, settings)), None)
    blocks: list[Block] = []
    if good is not None:
        for key, title in _costs(settings).items():
            blocks += _trade_off_chart(good, key, title, settings)
    return Section("pareto", "Trade-offs", blocks)


def _compares(good: str, settings: Sequence[RunSetting]) -> bool:
    """Return True if at least two settings have the figure, rewards are of one reward, and win rates of one contest."""
    having = [setting for setting in settings if of_setting(setting, good) is not None]
    runs = [run for setting in having for run in setting.runs]
    if good == JUDGED:
        return len(having) > 1 and len({run.figures.get(JUDGED) for run in runs} - {None}) == 1
    return len(having) > 1 and (good != REWARD or not differing_rewards(runs))


def _costs(settings: Sequence[RunSetting]) -> dict[str, str]:
    """Return the known costs, then every metric whose name mentions safety, crisis or risk."""
    runs = [run for setting in settings for run in setting.finished]
    keys = dict.fromkeys(key for run in runs for key in (run.summary.get("metrics") or {}).get("best") or {})
    safety = [key for key in keys if any(word in key for word in _SAFETY) and not key.endswith(("_low", "_high"))]
    return {**{key: title for key, title in _COSTS.items() if key in keys}, **{key: key for key in sorted(safety)}}


def _trade_off_chart(good: str, cost: str, title: str, settings: Sequence[RunSetting]) -> Iterator[Block]:
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
    curves = [_trade_off_curve(point, title) for point in points]
    direction = "less" if smaller else "more"
    notes = [
        "each point is a setting (mean over its seeds) with its 95 % interval",
        f"better: further up, and {direction} on the x axis",
    ]
    yield Chart(
        f"pareto-{name}", f"{what} against {title}", what, [*curves, *([line] if len(best) > 1 else [])], notes=notes
    )
    few = min(point.good.n for point in points) == 1
    caution = " Some points are single runs, so this line may be due to chance." if few else ""
    means = "no other setting is better in one and not worse in the other"
    yield Paragraph(f"Best trade-offs of {what} and {title} ({means}): {listed(names, 12)}.{caution}")
    yield _trade_off_table(f"pareto-{name}", good, cost, points, best)


def front(points: Sequence[TradeOff], smaller: bool) -> list[TradeOff]:
    """Return the points on the Pareto front, sorted by cost; `smaller`: a smaller cost is better.

    For a point on the front, no other point is better in one figure and not worse in the other.
    """
    sign = 1 if smaller else -1

    def beats(point: TradeOff, other: TradeOff) -> bool:
        gains = (other.good.value - point.good.value, sign * (point.cost.value - other.cost.value))
        return min(gains) >= 0 and max(gains) > 0

    winners = [point for point in points if not any(map(partial(beats, point), points))]
    return sorted(winners, key=lambda point: point.cost.value)


def _trade_off_curve(point: TradeOff, axis: str) -> Curve:
    low, high = point.good.low, point.good.high
    ends = None if low is None or high is None else ([low], [high])
    curve = Curve(point.setting.title, {axis: [point.cost.value]}, [point.good.value], points=True)
    return curve if ends is None else replace(curve, low=ends[0], high=ends[1])


def _trade_off_table(
    name: str, good: str, cost: str, points: Sequence[TradeOff], best: Sequence[TradeOff]
) -> ReportTable:
    rows: list[list[Cell]] = [
        [point.setting.title, point.good, point.cost, "yes" if any(point is winner for winner in best) else ""]
        for point in points
    ]
    headings = ["setting", _named(good), _named(cost), "best trade-off"]
    return ReportTable(name, Table(f"{_named(good)} against {_named(cost)}", headings, rows))


def _named(metric: str) -> str:
    return "win rate by judges" if metric == JUDGED else metric.removeprefix("eval/")
