"""Section on effects: the metric that compares runs, against the value of each swept setting."""

import math
from collections.abc import Iterator, Mapping, Sequence

from psychocounsel.reporting.blocks import Block, Chart, Curve, ReportTable, Section
from psychocounsel.reporting.material import TRAINING, Material, RunMaterial
from psychocounsel.reporting.sections.comparing.families import Family, families
from psychocounsel.reporting.sections.comparing.setting_groups import listed
from psychocounsel.studies.tables.formats import Cell, Table
from psychocounsel.studies.tables.runs import is_share, over_seeds

_WIDE = 20  # a wider range of values (largest / smallest) gets a logarithmic axis first


def section(material: Material) -> Section:
    trained = {id(run) for run in material.of(TRAINING)}
    found = [family for family in families(material) if all(id(run) in trained for run in family.runs)]
    blocks = [
        block
        for number, family in enumerate(found, 1)
        for block in _of_family(family, f"{number}-" if len(found) > 1 else "")
    ]
    return Section("effects", "Effects of settings", blocks)


def _of_family(family: Family, prefix: str) -> Iterator[Block]:
    varying = _varying(family.runs)
    for key, values in varying.items():
        others = [other for other in varying if other != key]
        verb = "varies" if len(others) == 1 else "vary"
        told = f"{listed(others)} {verb}, too: points may differ in more than {key}."
        notes = [told] if others else []
        by_value = {value: [run for run in family.runs if run.settings.get(key) == value] for value in values}
        name = f"effect-{prefix}{key.replace('.', '-').replace('_', '-')}"
        yield _chart(name, key, by_value, family, notes)
    if varying:
        yield _table(f"effects-{prefix}means".replace("--", "-"), varying, family)


def _varying(runs: Sequence[RunMaterial]) -> dict[str, list[str]]:
    """Return the settings with two values or more, with their values in order."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    found = {key: dict.fromkeys(run.settings[key] for run in runs if key in run.settings) for key in keys}
    return {key: sorted(values, key=_order) for key, values in found.items() if len(values) > 1}


def _order(value: str) -> tuple[bool, float, str]:
    number = _number(value)
    return (number is None, number or 0.0, value)


def _chart(
    name: str, key: str, by_value: Mapping[str, Sequence[RunMaterial]], family: Family, notes: Sequence[str]
) -> Chart:
    numbers = [_number(value) for value in by_value]
    known = [number for number in numbers if number is not None]
    is_numeric = len(known) == len(numbers)
    places = known if is_numeric else [float(place) for place in range(len(by_value))]
    points = [(place, run) for place, runs in zip(places, by_value.values(), strict=True) for run in runs]
    runs = Curve(
        "runs",
        _axes(key, [place for place, _ in points], is_numeric),
        [_figure(run, family) for _, run in points],
        labels=[run.title for _, run in points],
        points=True,
    )
    means = [over_seeds([_figure(run, family) for run in runs]) for runs in by_value.values()]
    values = [each.value for each in means if each]
    # A line would suggest values in between, which do not exist for values without an order.
    mean = Curve("mean over all runs with this value", _axes(key, places, is_numeric), values, points=not is_numeric)
    title = f"{family.metric} by {key} ({family.name})"
    return Chart(name, title, family.metric, [runs, mean], ticks=[] if is_numeric else [*by_value], notes=notes)


def _axes(key: str, places: Sequence[float], is_numeric: bool) -> dict[str, Sequence[float]]:
    """Return the x values of a numeric setting; a wide range also gets its logarithm as the first axis."""
    if is_numeric and min(places) > 0 and max(places) / min(places) >= _WIDE:
        return {f"log10 of {key}": [math.log10(place) for place in places], key: places}
    return {key: places}


def _table(name: str, varying: Mapping[str, Sequence[str]], family: Family) -> ReportTable:
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
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None
