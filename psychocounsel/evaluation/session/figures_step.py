"""The step `figures` of `evaluation=session`: computes figures.json from the tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from psychocounsel.blocks.cells import Titled
from psychocounsel.evaluation.judging.bias import training_warnings
from psychocounsel.evaluation.judging.served_models import ANSWERS_MIXED, answered_by, mixed_models
from psychocounsel.evaluation.safety.answers_step import prompt_of
from psychocounsel.evaluation.safety.figures import word_shares
from psychocounsel.evaluation.safety.show import unseen
from psychocounsel.evaluation.safety.word_checks import Checks
from psychocounsel.evaluation.session.answers_step import SCHEMA
from psychocounsel.evaluation.session.cases import judged_sessions
from psychocounsel.evaluation.session.figures import SessionFigures, checks_quality, summarise_flow, summarise_sessions
from psychocounsel.evaluation.session.flows_step import SCHEMA as FLOW_ROWS
from psychocounsel.evaluation.session.flows_step import flow_prompt
from psychocounsel.evaluation.session.personas import PersonaSet
from psychocounsel.evaluation.session.show import FLOW_WARNINGS, session_conclusions, session_summary, session_warnings
from psychocounsel.evaluation.session.transcripts import NAME, transcript_notes
from psychocounsel.evaluation.showing import end_figures
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import rows_of
from psychocounsel.storage.files import read_mapping


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Compute the figures, write figures.json and print the table.

    The returned metrics describe the setting under evaluation, by the first judge; word checks are none.
    """
    files, config = context.files, context.config
    setting, clients = _evaluated(context), _clients(config)
    judges = build(config, "judge").models()
    flow = prompt_of(context).flow
    answers = list(rows_of(files.session_answers, SCHEMA.names))
    by_checks = [judge.name for judge in judges if isinstance(judge, Checks)]
    names = [judge.name for judge in judges if judge.name not in by_checks]
    sessions, summary = summarise_sessions(judged_sessions(files), answers, names, flow, setting)
    prompt = flow_prompt(config)
    by_rubric = (
        None if prompt is None else summarise_flow(rows_of(files.flow_answers, FLOW_ROWS.names), prompt, setting)
    )
    warnings = [*session_warnings(sessions, by_checks, clients.notes), *(FLOW_WARNINGS if by_rubric else ())]
    warnings += mixed_models(answered_by(answers), ANSWERS_MIXED)
    figures: SessionFigures = {
        "evaluation": "session",
        "model": setting,
        "personas": clients.name,
        "sessions": sessions,
        "judges": summary,
        "words": word_shares(answers, by_checks),
        "flow": by_rubric,
        "steering_checks": checks_quality(flow) if clients.follows_checks else None,
        "notes": clients.notes,
        "warnings": [*(f"warning: {text}" for text in warnings), *training_warnings(config)],
    }
    records = {"answers": read_mapping(files.step("answers"))}
    limits = [unseen()] if by_checks or clients.follows_checks else []
    blocks = [*session_summary([Titled("", figures, records)]), *limits]
    return end_figures(context, figures, session_conclusions(figures), blocks, _metrics(figures))


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


def _metrics(figures: SessionFigures) -> dict[str, Any]:
    setting = figures["model"]
    broken = {"incomplete": figures["sessions"].get(setting, {}).get("incomplete", 0)}
    judged = next(iter(figures["judges"].values()), None)
    evaluated = judged["settings"].get(setting) if judged else None
    if evaluated is None or not evaluated["sessions"]:
        return broken
    means = {name: mean["mean"] for name, mean in evaluated["figures"].items() if mean["mean"] is not None}
    return {**means, **broken, "hard_flags": len(evaluated["hard"])}
