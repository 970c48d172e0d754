"""Runs of a study for its tables: grouped by setting, with a mean over seeds; failed and missing ones count."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Generic, Protocol, TypeVar

from omegaconf import DictConfig

from psychocounsel.blocks.tables import TableFigure
from psychocounsel.rundir.paths import RunDir, StudyDir
from psychocounsel.rundir.results import FINISHED, OF_GATES, read_metrics, read_summary
from psychocounsel.rundir.run import read_environment
from psychocounsel.rundir.run_config import has_config, read_config
from psychocounsel.storage.files import read_mapping
from psychocounsel.studies.selecting import found_values

_SEED = "seed"


@dataclass(frozen=True)
class StudyRun:
    """One run: `swept` are its swept keys with their values; `parent` is the run of `for_each` that it was made for."""

    stage: str
    run_dir: Path
    swept: Mapping[str, str]
    parent: "StudyRun | None" = None

    @cached_property
    def summary(self) -> dict[str, Any]:
        return read_summary(self.run_dir)

    @property
    def status(self) -> str:
        """Status of the run: finished, stopped, failed, ..., or `not run`."""
        return str(self.summary.get("status") or "not run")

    @cached_property
    def config(self) -> DictConfig | None:
        return read_config(self.run_dir) if has_config(self.run_dir) else None

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Environment of its last attempt: `nodes`, `processes`, versions; {} before it has started."""
        return read_environment(self.run_dir)

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """Lines of its metrics, one per step."""
        return read_metrics(RunDir(self.run_dir).metrics)

    def figure(self, key: str) -> float | None:
        """Return a figure of its summary, found by `figure_of`."""
        return figure_of(self.summary, key)


def figure_of(summary: Mapping[str, Any], key: str) -> float | None:
    """Return a figure of a run's summary, or None.

    For training, KEY is the figure at the best evaluation, `before:KEY` before training, `last:KEY` at the last one.
    """
    metrics = summary.get("metrics") or {}
    when, _, name = key.rpartition(":")
    if "best" in metrics:
        metrics = metrics.get(when or "best") or {}
    value = metrics.get(name) if isinstance(metrics, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


class MeasuredRun(Protocol):
    """Fields of a run that a setting reads: its status, and the figures of its summary."""

    @property
    def status(self) -> str: ...

    def figure(self, key: str) -> float | None: ...


AnyRun = TypeVar("AnyRun", bound=MeasuredRun)


@dataclass
class Setting(Generic[AnyRun]):
    """Runs that differ only in their seeds; `title` is the stage's, and the swept keys with their values."""

    title: str
    runs: list[AnyRun] = field(default_factory=list)

    @property
    def finished(self) -> list[AnyRun]:
        """Runs whose figures count: finished ones, and gates that did not pass."""
        return [run for run in self.runs if run.status in (FINISHED, *OF_GATES)]

    @property
    def count(self) -> str:
        """Number of runs as a text: `3`, or `2 of 3 (1 failed)`; for gates `3 of 3 (1 refused)`."""
        others = [run.status for run in self.runs if run.status != FINISHED]
        if not others:
            return str(len(self.runs))
        words = ", ".join(f"{others.count(status)} {status}" for status in dict.fromkeys(others))
        return f"{len(self.finished)} of {len(self.runs)} ({words})"


Runs = dict[str, list[StudyRun]]


def read_runs(files: StudyDir) -> Runs:
    """Return the current runs of the study by stage, from `cells.json`."""
    runs: Runs = {}
    by_folder: dict[str, StudyRun] = {}
    for stage, listed in (read_mapping(files.cells).get("stages") or {}).items():
        runs[stage] = []
        for cell in listed["cells"]:
            run_dir = files.path / cell["run_dir"]
            swept = found_values(run_dir, cell["swept"])
            run = StudyRun(stage, run_dir, swept, by_folder.get(cell["parent"] or ""))
            by_folder[cell["run_dir"]] = run
            runs[stage].append(run)
    return runs


def settings(runs: Runs, rows: Sequence[str] | Mapping[str, str]) -> list[Setting[StudyRun]]:
    """Return the settings of the stages named in `rows`, in order; a mapping gives stages other titles."""
    titled = rows.items() if isinstance(rows, Mapping) else ((stage, stage) for stage in rows)
    return [setting for title, stage in titled for setting in _of_stage(str(title), runs.get(stage, []))]


def _of_stage(title: str, runs: list[StudyRun]) -> Iterator[Setting[StudyRun]]:
    by_parts: dict[tuple[Any, ...], Setting[StudyRun]] = {}
    for run in runs:
        parts = tuple(_parts(run))
        setting = by_parts.setdefault(parts, Setting(", ".join([title, *parts])))
        setting.runs.append(run)
    return iter(by_parts.values() or [Setting[StudyRun](title)])


def _parts(run: StudyRun) -> Iterator[str]:
    """Yield the keys that distinguish a run's setting from others of its stage: first those of the run that it evaluates."""
    if run.parent is not None:
        yield run.parent.stage
        yield from _parts(run.parent)
    yield from (f"{key}={_readable(value)}" for key, value in run.swept.items() if key != _SEED)


def _readable(value: str) -> str:
    """Return a value as typed, without the quotes and backslashes that Hydra needs around some texts."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return re.sub(r"\\(.)", r"\1", value)


# Figures: a mean over seeds with its spread, or one run's value with its own interval.

_LEVEL = 0.95
# Parts of the names of figures between 0 and 1.
_SHARES = ("accuracy", "win_rate", "unfinished", "missed", "triage", "escalation")


def is_share(metric: str) -> bool:
    """Return True if a figure is a share from 0 to 1, which reports show in per cent."""
    return any(part in metric.rpartition("/")[2] for part in _SHARES)


def over_seeds(values: Sequence[float], percent: bool = False, share: bool = False) -> TableFigure | None:
    """Return mean, standard deviation and interval of the mean over runs with several seeds; None without values.

    The interval is mean +- t * sd / sqrt(n) with n - 1 degrees of freedom, clipped to 0..1 for shares. One run has no
    standard deviation and no interval. Equal values have no interval, because one without width would promise certainty.
    """
    if not values:
        return None
    if len(values) == 1:
        return TableFigure(values[0], percent=percent)
    from scipy.special import stdtrit  # slow to import, and a launcher only checks the layout of tables

    mean, sd, n = fmean(values), stdev(values), len(values)
    if not sd:
        return TableFigure(mean, sd, None, None, n, percent)
    half = float(stdtrit(n - 1, (1 + _LEVEL) / 2)) * sd / n**0.5
    low, high = (max(mean - half, 0.0), min(mean + half, 1.0)) if share else (mean - half, mean + half)
    return TableFigure(mean, sd, low, high, n, percent)


def of_setting(setting: Setting[AnyRun], key: str, percent: bool = False) -> TableFigure | None:
    """Return the figure `key` of a setting over its finished runs; for one run, with its own interval over prompts."""
    values = [value for run in setting.finished if (value := run.figure(key)) is not None]
    if len(values) != 1:
        return over_seeds(values, percent, is_share(key))
    run = next(run for run in setting.finished if run.figure(key) is not None)
    return TableFigure(values[0], None, run.figure(f"{key}_low"), run.figure(f"{key}_high"), 1, percent)
