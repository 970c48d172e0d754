"""Runs of a report grouped by setting, and what they are called."""

from collections.abc import Iterable, Sequence

from psychocounsel.reporting.material import RunMaterial
from psychocounsel.studies.tables.figures import is_share
from psychocounsel.studies.tables.study_runs import Setting

RunSetting = Setting[RunMaterial]


def settings_of(runs: Iterable[RunMaterial]) -> list[RunSetting]:
    """Runs that differ in their seeds alone, as one setting, in the order in which they were given."""
    found: dict[tuple[str, ...], RunSetting] = {}
    for run in runs:
        key = (run.kind, run.what, run.stage, run.setting)
        found.setdefault(key, Setting(setting_title(run))).runs.append(run)
    return list(found.values())


def setting_title(run: RunMaterial) -> str:
    """`stage, key=value, ...`; of a run without either, what it does."""
    parts = [each for each in (run.stage, run.setting) if each]
    return ", ".join(parts) or run.what or run.title


def listed(names: Sequence[str], most: int = 6) -> str:
    """`a, b and c`; of many the first ones, and how many more there are. Names with commas are parted by semicolons."""
    comma = "; " if any(", " in name for name in names) else ", "
    if len(names) > most:
        return f"{comma.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, (comma.join(names[:-1]), names[-1]))) if names else "none"


def differ(names: Sequence[str]) -> str:
    """`a differs`, `a and b differ`."""
    return f"{listed(names)} {'differs' if len(names) == 1 else 'differ'}"


def value_text(metric: str, value: float) -> str:
    """`61.2 %` of a share, else four digits."""
    return f"{100 * value:.1f} %" if is_share(metric) else f"{value:.4g}"


def interval_text(metric: str, low: float, high: float) -> str:
    """`55.0 to 67.4 %`."""
    return f"{100 * low:.1f} to {100 * high:.1f} %" if is_share(metric) else f"{low:.4g} to {high:.4g}"
