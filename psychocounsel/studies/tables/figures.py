"""Figure of a table: a mean over seeds with its spread, or one run's value with its own interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from psychocounsel.studies.tables.study_runs import AnyRun, Setting

_LEVEL = 0.95
# Parts of the names of figures between 0 and 1.
_SHARES = ("accuracy", "win_rate", "unfinished", "missed", "triage", "escalation")


@dataclass(frozen=True)
class TableFigure:
    """A value with the available information about its spread.

    Attributes:
        sd: standard deviation over seeds (n - 1 in the denominator); None for one run.
        low, high: 95 % interval: of the mean over seeds (Student's t), or of one run over prompts, from its evaluation.
        n: number of runs.
        percent: shown as a percentage.
        spreads: False for values without interval, such as hours and p-values, for which no note about the spread is printed.
    """

    value: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 1
    percent: bool = False
    spreads: bool = True

    def shown(self, number: float) -> str:
        return f"{100 * number:.1f}" if self.percent else f"{number:.4g}"


def is_share(metric: str) -> bool:
    """Return True if a figure is a share from 0 to 1, which reports show in per cent."""
    return any(part in metric.rpartition("/")[2] for part in _SHARES)


def over_seeds(values: Sequence[float], percent: bool = False, share: bool = False) -> TableFigure | None:
    """Return mean, standard deviation and interval of the mean over runs with several seeds; None without values.

    The interval is mean +- t * sd / sqrt(n) with n - 1 degrees of freedom, clipped to 0..1 for shares. One run has no
    standard deviation and no interval.
    """
    if not values:
        return None
    if len(values) == 1:
        return TableFigure(values[0], percent=percent)
    from scipy.special import stdtrit  # slow to import, and a launcher only checks the layout of tables

    mean, sd, n = fmean(values), stdev(values), len(values)
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
