"""Values of a training run's metric lines over steps, tokens and GPU-hours."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

from psychocounsel.reporting.blocks import Curve
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.sections.comparing.setting_groups import setting_title

STEPS, TOKENS, HOURS = "steps", "tokens", "GPU-hours"


@dataclass(frozen=True)
class TrainingLines:
    """The lines of a run as columns, made once, because reports may hold hundreds of runs with thousands of lines.

    Attributes:
        places: by axis, the x value of each line: optimizer steps, tokens so far, hours of steps so far times processes.
        values: by metric, its values.
        indices: by metric, the indices of the lines that have it.
    """

    places: Mapping[str, Sequence[float]]
    values: Mapping[str, Sequence[Any]]
    indices: Mapping[str, Sequence[int]]
    _chosen: dict[tuple[int, ...], dict[str, Sequence[float]]] = field(default_factory=dict)

    def at(self, indices: Sequence[int]) -> dict[str, Sequence[float]]:
        """Return the x values of some lines by axis. Metrics that occur in the same lines share these lists."""
        key = tuple(indices)
        if key not in self._chosen:
            self._chosen[key] = {axis: [values[index] for index in key] for axis, values in self.places.items()}
        return self._chosen[key]


def lines_of(run: RunMaterial, keys: Collection[str] = ()) -> TrainingLines:
    """Return the lines of a run for all metrics, or for `keys` only. Axes that the lines do not record are omitted.

    With GPUs each process has one, so hours of steps times processes are GPU-hours; on CPU they are process hours.
    """
    known = {key for line in run.lines for key in line}
    chosen = known & {*keys} if keys else known
    indices = {key: [index for index, line in enumerate(run.lines) if key in line] for key in chosen}
    values = {key: [run.lines[index][key] for index in found] for key, found in indices.items()}
    places: dict[str, Sequence[float]] = {STEPS: [line["step"] for line in run.lines]}
    if "tokens" in known:
        places[TOKENS] = [*accumulate(line.get("tokens", 0) for line in run.lines)]
    if "step_seconds" in known:
        hours = processes_of(run) / 3600
        places[HOURS] = [seconds * hours for seconds in accumulate(line.get("step_seconds", 0.0) for line in run.lines)]
    return TrainingLines(places, values, indices)


def processes_of(run: RunMaterial) -> int:
    return int(run.environment.get("processes") or 1)


def curve(run: RunMaterial, lines: TrainingLines, key: str) -> Curve | None:
    """Return the values of `key`, with their interval if the lines have one; None if no value is finite."""
    values, indices = lines.values.get(key, ()), lines.indices.get(key, ())
    if not _are_finite(values):
        finite = [place for place, value in enumerate(values) if _is_number(value)]
        values, indices = [values[place] for place in finite], [indices[place] for place in finite]
    if not indices:
        return None
    found = Curve(run.title, lines.at(indices), values, group=setting_title(run))
    if f"{key}_low" not in lines.values:
        return found
    low, high = ([run.lines[index].get(f"{key}_{end}", math.nan) for index in indices] for end in ("low", "high"))
    return replace(found, low=low, high=high) if all(map(_is_number, [*low, *high])) else found


def not_finite(run: RunMaterial) -> int:
    """Return the number of values in the run's lines that are nan or infinite. No chart can show them."""
    values = (value for line in run.lines for value in line.values() if type(value) is float)
    return sum(value - value != 0 for value in values)  # nan - nan and inf - inf are nan, which differs from 0


def _are_finite(values: Sequence[Any]) -> bool:
    try:
        return all(map(math.isfinite, values))
    except TypeError:
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
