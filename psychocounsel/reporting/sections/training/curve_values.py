"""Values of a training's lines along its steps, tokens and GPU-hours."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from psychocounsel.reporting.blocks import Curve
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.sections.comparing.setting_groups import setting_title

STEPS, TOKENS, HOURS = "steps", "tokens", "GPU-hours"


@dataclass(frozen=True)
class TrainingAxes:
    """Where each line of a run lies: optimizer steps, tokens so far, and hours of its steps times its processes so far."""

    places: Mapping[str, Sequence[float]]

    def at(self, indices: Sequence[int]) -> dict[str, Sequence[float]]:
        """The places of some lines; of all of them the same lists for every curve."""
        whole = len(indices) == len(self.places[STEPS])
        return {axis: values if whole else [values[index] for index in indices] for axis, values in self.places.items()}


def axes_of(run: RunMaterial) -> TrainingAxes:
    """The axes of a run; without those of which its lines say nothing.

    A process has a GPU where there are any, so that hours of steps times processes are GPU-hours; on CPU they are process-hours.
    """
    places: dict[str, Sequence[float]] = {STEPS: [line["step"] for line in run.lines]}
    if any("tokens" in line for line in run.lines):
        places[TOKENS] = [*accumulate(line.get("tokens", 0) for line in run.lines)]
    if any("step_seconds" in line for line in run.lines):
        hours = processes_of(run) / 3600
        places[HOURS] = [seconds * hours for seconds in accumulate(line.get("step_seconds", 0.0) for line in run.lines)]
    return TrainingAxes(places)


def processes_of(run: RunMaterial) -> int:
    return int(run.environment.get("processes") or 1)


def curve(run: RunMaterial, axes: TrainingAxes, key: str) -> Curve | None:
    """The values of `key` with their interval, where the lines have one; None of a run without a finite one."""
    indices = [index for index, line in enumerate(run.lines) if _is_number(line.get(key))]
    if not indices:
        return None
    values = [run.lines[index][key] for index in indices]
    low, high = ([run.lines[index].get(f"{key}_{end}", math.nan) for index in indices] for end in ("low", "high"))
    known = all(map(_is_number, [*low, *high]))
    return Curve(
        run.title, axes.at(indices), values, low if known else None, high if known else None, group=setting_title(run)
    )


def not_finite(run: RunMaterial) -> int:
    """How many figures of its lines are nan or infinite: no chart can show them."""
    return sum(isinstance(value, float) and not math.isfinite(value) for line in run.lines for value in line.values())


def has(runs: Sequence[RunMaterial], key: str) -> bool:
    return any(key in line for run in runs for line in run.lines)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
