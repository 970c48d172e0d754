"""Section on final figures: mean and standard deviation over seeds of each setting's best evaluation, with intervals."""

from collections.abc import Sequence

from psychocounsel.reporting.blocks import Paragraph, ReportTable, Section
from psychocounsel.reporting.material import TRAINING, Material
from psychocounsel.reporting.sections.comparing.families import metric_of
from psychocounsel.reporting.sections.comparing.losses import losses_are_comparable
from psychocounsel.reporting.sections.comparing.setting_groups import RunSetting, listed, settings_of
from psychocounsel.studies.tables.formats import Cell, Table
from psychocounsel.studies.tables.runs import is_share, of_setting

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


def section(material: Material) -> Section:
    settings = settings_of(material.of(TRAINING))
    if not any(setting.finished for setting in settings):
        return Section("final", "Final figures")
    table = final_table(settings)
    warned = [Paragraph(text, "warning") for text in loss_warning(settings)]
    return Section("final", "Final figures", [*warned, ReportTable("final", table)])


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
    if losses_are_comparable(finished):
        return []
    return [
        "Losses cannot be compared across these settings: they differ in the algorithm, or in settings that enter the loss."
    ]


def _columns(settings: Sequence[RunSetting]) -> dict[str, str]:
    left_out = ("eval/loss",) if loss_warning(settings) else ()
    finished = [run for setting in settings for run in setting.finished]
    return {
        key: title
        for key, title in COLUMNS.items()
        if key not in left_out and any(run.figure(key) is not None for run in finished)
    }
