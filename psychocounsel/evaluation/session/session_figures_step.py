"""The step `figures` of `evaluation=session`: from the tables to figures.json."""

from typing import Any

from psychocounsel.evaluation.safety.answers_step import prompt_of
from psychocounsel.evaluation.safety.word_checks import Checks
from psychocounsel.evaluation.session.judged_sessions import judged_sessions
from psychocounsel.evaluation.session.persona_set import PersonaSet
from psychocounsel.evaluation.session.session_answers_step import SCHEMA
from psychocounsel.evaluation.session.session_lines import session_lines, session_warnings
from psychocounsel.evaluation.session.session_summary import checks_quality, summarise_sessions
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.context import StepContext
from psychocounsel.steps.tables import rows_of
from psychocounsel.storage.files import write_json


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Measure, write figures.json and say the table; the metrics are those of the evaluated setting, by the first judge."""
    files, config = context.files, context.config
    setting = build(config, "contestants").settings[0]
    judges = build(config, "judge").models()
    clients: PersonaSet = build(config, "personas")
    path = prompt_of(context).flow.path
    answers = list(rows_of(files.session_answers, SCHEMA.names))
    summary = summarise_sessions(judged_sessions(files), answers, [judge.name for judge in judges], path, setting)
    steering = checks_quality(path) if clients.follows_checks else None
    by_checks = {judge.name for judge in judges if isinstance(judge, Checks)}
    warnings = [*session_warnings(summary, by_checks, clients.notes())]
    about = {"evaluation": "session", "model": setting, "personas": clients.name}
    write_json(files.figures, {**about, **summary, "steering_checks": steering, "warnings": warnings})
    for line in (*session_lines(summary, by_checks, steering), *warnings):
        context.say(line)
    return {"metrics": _metrics(summary, judges[0].name, setting)}


def _metrics(summary: dict[str, Any], judge: str, setting: str) -> dict[str, Any]:
    broken = {"incomplete": summary["sessions"].get(setting, {}).get("incomplete", 0)}
    found = summary["judges"][judge]["settings"].get(setting)
    if found is None:
        return broken
    told = {name: each["mean"] for name, each in found["figures"].items() if each["mean"] is not None}
    return {**told, **broken, "hard_flags": len(found["hard"])}
