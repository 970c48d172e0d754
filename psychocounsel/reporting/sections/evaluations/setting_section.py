"""Section on evaluations by setting: mean and standard deviation of the main figures over training seeds."""

from collections import defaultdict
from collections.abc import Sequence

from psychocounsel.evaluation.health.reply_health import FIGURES
from psychocounsel.evaluation.safety.reply_findings import HARD, SAFETY_FIGURES
from psychocounsel.reporting.blocks import ReportTable, Section
from psychocounsel.reporting.material import EVALUATION, Material
from psychocounsel.reporting.sections.comparing.setting_groups import RunSetting, settings_of
from psychocounsel.studies.tables.formats import Cell, Table
from psychocounsel.studies.tables.runs import is_share, of_setting

# Main figures by evaluation. Other evaluations, such as a user's own, show the first figures that they wrote.
_FIRST = {
    "winrate": ["win_rate", "win_rate_at_equal_length"],
    "reward": ["pairs", "accuracy", "auc", "ece", "brier"],
    "safety": ["hard_flags", *(name for name in SAFETY_FIGURES if name not in HARD)],
}
_MOST = 8  # columns of figures


def section(material: Material) -> Section:
    """Return a table per evaluation, or none if no setting has several runs: other sections then show the same."""
    several = any(len(setting.runs) > 1 for setting in settings_of(material.of(EVALUATION)))
    tables = [ReportTable(f"by-setting-{what}", table) for what, table in setting_tables(material).items()]
    return Section("evaluations-by-setting", "Evaluations by setting", tables if several else [])


def setting_tables(material: Material) -> dict[str, Table]:
    """Return a table for each evaluation with finished runs, by the evaluation's name. A row is a setting."""
    found = defaultdict[str, list[RunSetting]](list)
    for setting in settings_of(material.of(EVALUATION)):
        found[setting.runs[0].what].append(setting)
    return {what: _table(what, settings) for what, settings in found.items() if any(each.finished for each in settings)}


def _table(what: str, settings: Sequence[RunSetting]) -> Table:
    keys = _keys(what, settings)
    rows: list[list[Cell]] = [
        [setting.title, setting.count, *(of_setting(setting, key, _in_percent(key)) for key in keys)]
        for setting in settings
    ]
    headings = ["setting", "runs", *(key.replace("_", " ") for key in keys)]
    notes = ["one run: its value and interval; several runs: mean over seeds ± standard deviation"]
    return Table(f"evaluation={what} by setting", headings, rows, notes)


def _keys(what: str, settings: Sequence[RunSetting]) -> list[str]:
    written = dict.fromkeys(
        key for setting in settings for run in setting.finished for key in run.summary.get("metrics") or {}
    )
    plain = [key for key in written if "/" not in key and not key.endswith(("_low", "_high"))]
    return [key for key in _FIRST.get(what, plain) if key in written][:_MOST]


def _in_percent(key: str) -> bool:
    figure = {**FIGURES, **SAFETY_FIGURES}.get(key)
    return is_share(key) or (figure is not None and figure.share)
