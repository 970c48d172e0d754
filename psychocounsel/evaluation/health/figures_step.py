"""Step `figures` of `evaluation=health`: measures replies.parquet and writes figures.json."""

from typing import Any

from psychocounsel.evaluation.health.health_lines import health_warnings, lines_of
from psychocounsel.evaluation.health.health_means import EXCEEDED
from psychocounsel.evaluation.health.summarising import summarise
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.context import StepContext
from psychocounsel.steps.tables import rows_of
from psychocounsel.storage.files import write_json


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Measure the replies, write figures.json and print the table; return the metrics of the evaluated setting."""
    files = context.files
    setting = build(context.config, "contestants").settings[0]
    speeches = rows_of(files.speeches, ["speech", "text", "language"])
    columns = ["speech", "setting", "seed", "length_limit", "text", "outcome", "completion_tokens"]
    summary = summarise(rows_of(files.replies, columns), speeches, setting)
    warnings = [*health_warnings(summary)]
    write_json(files.figures, {"evaluation": "health", "model": setting, **summary, "warnings": warnings})
    for line in lines_of(summary):
        context.say(line)
    found = summary["variants"][0]["settings"][setting]
    figures = {name: each["mean"] for name, each in found["figures"].items() if each["mean"] is not None}
    exceeded = sum(each["verdict"] == EXCEEDED for each in found["limits"])
    return {"metrics": {"limits_exceeded": exceeded, **figures}}
