"""The step `figures` of `evaluation=session`: computes figures.json from the tables."""

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from psychocounsel.evaluation.flows.flow_answer_rows import SCHEMA as FLOW_ROWS
from psychocounsel.evaluation.flows.flow_answers_step import flow_prompt
from psychocounsel.evaluation.flows.flow_summary import FLOW_WARNINGS, flow_lines, summarise_flow
from psychocounsel.evaluation.safety.answers_step import prompt_of
from psychocounsel.evaluation.safety.word_checks import Checks
from psychocounsel.evaluation.session.judged_sessions import judged_sessions
from psychocounsel.evaluation.session.persona_set import PersonaSet
from psychocounsel.evaluation.session.session_answers_step import SCHEMA
from psychocounsel.evaluation.session.session_lines import session_lines, session_warnings
from psychocounsel.evaluation.session.session_summary import checks_quality, summarise_sessions
from psychocounsel.evaluation.session.transcripts.transcript_rows import NAME, transcript_notes
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.context import StepContext
from psychocounsel.steps.tables import rows_of
from psychocounsel.storage.files import write_json


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Compute the figures, write figures.json and print the table.

    The returned metrics describe the setting under evaluation, by the first judge.
    """
    files, config = context.files, context.config
    setting, clients = _evaluated(context), _clients(config)
    judges = build(config, "judge").models()
    path = prompt_of(context).flow.path
    answers = list(rows_of(files.session_answers, SCHEMA.names))
    summary = summarise_sessions(judged_sessions(files), answers, [judge.name for judge in judges], path, setting)
    steering = checks_quality(path) if clients.follows_checks else None
    by_checks = {judge.name for judge in judges if isinstance(judge, Checks)}
    about = {"evaluation": "session", "model": setting, "personas": clients.name}
    prompt = flow_prompt(config)
    flow = None if prompt is None else summarise_flow(rows_of(files.flow_answers, FLOW_ROWS.names), prompt, setting)
    warnings = [*session_warnings(summary, by_checks, clients.notes), *(FLOW_WARNINGS if flow is not None else ())]
    write_json(files.figures, {**about, **summary, "flow": flow, "steering_checks": steering, "warnings": warnings})
    by_rubric = [] if flow is None else flow_lines(flow)
    for line in (*session_lines(summary, by_checks, steering), *by_rubric, *warnings):
        context.say(line)
    return {"metrics": _metrics(summary, judges[0].name, setting)}


@dataclass(frozen=True)
class _Clients:
    """Source of the sessions: its name, its notes for every output, and True if word checks steer the clients."""

    name: str
    notes: list[str]
    follows_checks: bool


def _clients(config: DictConfig) -> _Clients:
    if config.evaluation.transcripts is not None:
        return _Clients(NAME, transcript_notes(config), False)
    clients: PersonaSet = build(config, "personas")
    return _Clients(clients.name, clients.notes(), clients.follows_checks)


def _evaluated(context: StepContext[EvaluationDir]) -> str:
    """Return the setting under evaluation; for finished conversations, the first setting by name."""
    if context.config.evaluation.transcripts is not None:
        return min(row["setting"] for row in rows_of(context.files.session_turns, ["setting"]))
    setting: str = build(context.config, "contestants").settings[0]
    return setting


def _metrics(summary: dict[str, Any], judge: str, setting: str) -> dict[str, Any]:
    broken = {"incomplete": summary["sessions"].get(setting, {}).get("incomplete", 0)}
    found = summary["judges"][judge]["settings"].get(setting)
    if found is None or not found["sessions"]:
        return broken
    told = {name: each["mean"] for name, each in found["figures"].items() if each["mean"] is not None}
    return {**told, **broken, "hard_flags": len(found["hard"])}
