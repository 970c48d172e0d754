"""Groups of runs with equal settings, and texts for sentences: titles, lists, values and intervals."""

from collections.abc import Iterable, Sequence

from psychocounsel.reporting.material import RunMaterial
from psychocounsel.studies.tables.runs import Setting, is_share

RunSetting = Setting[RunMaterial]


def settings_of(runs: Iterable[RunMaterial]) -> list[RunSetting]:
    """Group runs that differ only in their seeds into settings, in the order in which the runs were given."""
    found: dict[tuple[str, ...], RunSetting] = {}
    for run in runs:
        key = (run.kind, run.what, run.stage, run.setting)
        found.setdefault(key, Setting(setting_title(run))).runs.append(run)
    return list(found.values())


def setting_title(run: RunMaterial) -> str:
    """Return `stage, key=value, ...`, or the run's algorithm, evaluation or title if it has neither."""
    parts = [each for each in (run.stage, run.setting) if each]
    return ", ".join(parts) or run.what or run.title


def listed(names: Sequence[str], most: int = 6) -> str:
    """Return `a, b and c`. A long list is cut: `a, b and 5 more`. If names contain commas, semicolons separate them."""
    comma = "; " if any(", " in name for name in names) else ", "
    if len(names) > most:
        return f"{comma.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, (comma.join(names[:-1]), names[-1]))) if names else "none"


def differ(names: Sequence[str]) -> str:
    """Return `a differs` or `a and b differ`."""
    return f"{listed(names)} {'differs' if len(names) == 1 else 'differ'}"


def value_text(metric: str, value: float) -> str:
    """Return a share as `61.2 %`, any other value with four digits."""
    return f"{100 * value:.1f} %" if is_share(metric) else f"{value:.4g}"


def interval_text(metric: str, low: float, high: float) -> str:
    """Return an interval as text: `55.0 to 67.4 %`."""
    return f"{100 * low:.1f} to {100 * high:.1f} %" if is_share(metric) else f"{low:.4g} to {high:.4g}"
