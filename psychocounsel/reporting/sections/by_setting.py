"""Sections by setting: final figures over seeds, effects of swept settings, and evaluations."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from psychocounsel.blocks.kinds import Block, Chart, Curve, Paragraph, ReportTable, Section
from psychocounsel.blocks.tables import Cell, Table
from psychocounsel.evaluation.health.reply import FIGURES
from psychocounsel.evaluation.safety.questions import HARD, SAFETY_FIGURES
from psychocounsel.reporting.material import EVALUATION, TRAINING, Material, RunMaterial
from psychocounsel.reporting.sections.comparisons import (
    Family,
    RunSetting,
    differing_loss_settings,
    families,
    listed,
    metric_of,
    settings_of,
)
from psychocounsel.studies.tables.runs import is_share, of_setting, over_seeds

# Section on final figures: each setting's best evaluation over seeds, with intervals

# One column for each metric that a run has. The loss is shown only if losses can be compared.
COLUMNS = {
    "eval/accuracy": "accuracy",
    "eval/margin": "margin",
    "eval/win_rate": "win rate",
    "eval/reward": "reward",
    "eval/kl": "KL (nats)",
    "eval/length": "length (tokens)",
    "eval/unfinished": "unfinished",
    "eval/auc": "AUC",
    "eval/ece": "ECE",
    "eval/brier": "Brier",
    "eval/loss": "loss",
}


def final_section(material: Material) -> Section:
    settings = settings_of(material.of(TRAINING))
    if not any(setting.finished for setting in settings):
        return Section("final", "Final figures")
    table = final_table(settings)
    warnings = [Paragraph(text, "warning") for text in loss_warning(settings)]
    return Section("final", "Final figures", [*warnings, ReportTable("final", table)])


def final_table(settings: Sequence[RunSetting]) -> Table:
    """Return a table with a row for each setting: its runs, and their metrics at each run's best evaluation."""
    columns = _columns(settings)
    rows: list[list[Cell]] = [
        [setting.title, setting.count, *(of_setting(setting, key, is_share(key)) for key in columns)]
        for setting in settings
    ]
    metrics = dict.fromkeys(filter(None, (metric_of(run) for setting in settings for run in setting.finished)))
    notes = [f"figures of each run's best evaluation by checkpoint.metric ({listed([*metrics])})"] if metrics else []
    if {"eval/margin", "eval/reward"} & {*columns} and loss_warning(settings):
        notes.append("margins depend on the settings of the algorithm (beta), rewards on the reward model")
    return Table("Final figures by setting", ["setting", "runs", *columns.values()], rows, notes)


def loss_warning(settings: Sequence[RunSetting]) -> list[str]:
    """Return a line on why there is no column of losses; no line if losses can be compared."""
    finished = [run for setting in settings for run in setting.finished]
    if not differing_loss_settings(finished):
        return []
    return [
        "Losses cannot be compared across these settings: they differ in the algorithm, or in settings that enter the loss."
    ]


def _columns(settings: Sequence[RunSetting]) -> dict[str, str]:
    omitted = ("eval/loss",) if loss_warning(settings) else ()
    finished = [run for setting in settings for run in setting.finished]
    return {
        key: title
        for key, title in COLUMNS.items()
        if key not in omitted and any(run.figure(key) is not None for run in finished)
    }


# Section on effects: the metric that compares runs, against the value of each swept setting

_WIDE = 20  # a wider range of values (largest / smallest) gets a logarithmic axis first


def effect_section(material: Material) -> Section:
    trained = {id(run) for run in material.of(TRAINING)}
    groups = [family for family in families(material) if all(id(run) in trained for run in family.runs)]
    blocks = [
        block
        for number, family in enumerate(groups, 1)
        for block in _of_family(family, f"{number}-" if len(groups) > 1 else "")
    ]
    return Section("effects", "Effects of settings", blocks)


def _of_family(family: Family, prefix: str) -> Iterator[Block]:
    varying = _varying(family.runs)
    for key, values in varying.items():
        others = [other for other in varying if other != key]
        verb = "varies" if len(others) == 1 else "vary"
        remark = f"{listed(others)} {verb}, too: points may differ in more than {key}."
        notes = [remark] if others else []
        by_value = {value: [run for run in family.runs if run.settings.get(key) == value] for value in values}
        name = f"effect-{prefix}{key.replace('.', '-').replace('_', '-')}"
        yield _effect_chart(name, key, by_value, family, notes)
    if varying:
        yield _effect_table(f"effects-{prefix}means".replace("--", "-"), varying, family)


def _varying(runs: Sequence[RunMaterial]) -> dict[str, list[str]]:
    """Return the settings with two values or more, with their values in order."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    values_by_key = {key: dict.fromkeys(run.settings[key] for run in runs if key in run.settings) for key in keys}
    return {key: sorted(values, key=_order) for key, values in values_by_key.items() if len(values) > 1}


def _order(value: str) -> tuple[bool, float, str]:
    number = _number(value)
    return (number is None, number or 0.0, value)


def _effect_chart(
    name: str, key: str, by_value: Mapping[str, Sequence[RunMaterial]], family: Family, notes: Sequence[str]
) -> Chart:
    numbers = [_number(value) for value in by_value]
    known = [number for number in numbers if number is not None]
    is_numeric = len(known) == len(numbers)
    places = known if is_numeric else [float(place) for place in range(len(by_value))]
    points = [(place, run) for place, runs in zip(places, by_value.values(), strict=True) for run in runs]
    runs = Curve(
        "runs",
        _effect_axes(key, [place for place, _ in points], is_numeric),
        [_figure(run, family) for _, run in points],
        labels=[run.title for _, run in points],
        points=True,
    )
    means = [over_seeds([_figure(run, family) for run in runs]) for runs in by_value.values()]
    values = [figure.value for figure in means if figure]
    # A line would suggest values in between, which do not exist for values without an order.
    mean = Curve(
        "mean over all runs with this value", _effect_axes(key, places, is_numeric), values, points=not is_numeric
    )
    title = f"{family.metric} by {key} ({family.name})"
    return Chart(name, title, family.metric, [runs, mean], ticks=[] if is_numeric else [*by_value], notes=notes)


def _effect_axes(key: str, places: Sequence[float], is_numeric: bool) -> dict[str, Sequence[float]]:
    """Return the x values of a numeric setting; a wide range also gets its logarithm as the first axis."""
    if is_numeric and min(places) > 0 and max(places) / min(places) >= _WIDE:
        return {f"log10 of {key}": [math.log10(place) for place in places], key: places}
    return {key: places}


def _effect_table(name: str, varying: Mapping[str, Sequence[str]], family: Family) -> ReportTable:
    percent = is_share(family.metric)
    rows: list[list[Cell]] = []
    for key, values in varying.items():
        for value in values:
            figures = [_figure(run, family) for run in family.runs if run.settings.get(key) == value]
            rows.append([key, value, str(len(figures)), over_seeds(figures, percent, percent)])
    notes = [
        "means over all runs with this value, over all other settings and seeds; ± is the standard deviation of these runs"
    ]
    return ReportTable(
        name,
        Table(f"{family.metric} by value of each setting", ["setting", "value", "runs", family.metric], rows, notes),
    )


def _figure(run: RunMaterial, family: Family) -> float:
    value = run.figure(family.metric)
    assert value is not None, "a family has only runs with the metric"
    return value


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


# Section on evaluations by setting: main figures over training seeds

# Main figures by evaluation. Other evaluations, such as a user's own, show the first figures that they wrote.
_FIRST_FIGURES = {
    "winrate": ["win_rate", "win_rate_at_equal_length"],
    "reward": ["pairs", "accuracy", "auc", "ece", "brier"],
    "safety": ["hard_flags", *(name for name in SAFETY_FIGURES if name not in HARD)],
}
_MOST_FIGURES = 8  # columns of figures


def evaluation_section(material: Material) -> Section:
    """Return a table per evaluation, or none if no setting has several runs: other sections then show the same."""
    several = any(len(setting.runs) > 1 for setting in settings_of(material.of(EVALUATION)))
    tables = [ReportTable(f"by-setting-{what}", table) for what, table in setting_tables(material).items()]
    return Section("evaluations-by-setting", "Evaluations by setting", tables if several else [])


def setting_tables(material: Material) -> dict[str, Table]:
    """Return a table for each evaluation with finished runs, by the evaluation's name. A row is a setting."""
    by_evaluation = defaultdict[str, list[RunSetting]](list)
    for setting in settings_of(material.of(EVALUATION)):
        by_evaluation[setting.runs[0].what].append(setting)
    return {
        what: _evaluation_table(what, settings)
        for what, settings in by_evaluation.items()
        if any(setting.finished for setting in settings)
    }


def _evaluation_table(what: str, settings: Sequence[RunSetting]) -> Table:
    keys = _evaluation_keys(what, settings)
    rows: list[list[Cell]] = [
        [setting.title, setting.count, *(of_setting(setting, key, _in_percent(key)) for key in keys)]
        for setting in settings
    ]
    headings = ["setting", "runs", *(key.replace("_", " ") for key in keys)]
    notes = ["one run: its value and interval; several runs: mean over seeds ± standard deviation"]
    return Table(f"evaluation={what} by setting", headings, rows, notes)


def _evaluation_keys(what: str, settings: Sequence[RunSetting]) -> list[str]:
    written = dict.fromkeys(
        key for setting in settings for run in setting.finished for key in run.summary.get("metrics") or {}
    )
    plain = [key for key in written if "/" not in key and not key.endswith(("_low", "_high"))]
    return [key for key in _FIRST_FIGURES.get(what, plain) if key in written][:_MOST_FIGURES]


def _in_percent(key: str) -> bool:
    figure = {**FIGURES, **SAFETY_FIGURES}.get(key)
    return is_share(key) or (figure is not None and figure.share)
