"""`evaluation=session`: whether a counsellor recognises and follows up risk over a whole session with a simulated client."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig

from psychocounsel.asking.language_model import LanguageModel
from psychocounsel.errors import UserError
from psychocounsel.evaluation.safety.settings import check_judges, refuse_data_keys
from psychocounsel.evaluation.stepped import COMPUTED_BY, SteppedEvaluation, models_of
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.schema import option
from psychocounsel.settings.targets import build
from psychocounsel.steps.context import StepContext
from psychocounsel.steps.course import Course

LANGUAGE = "en"  # of all clients: the checks read English alone
_READ_BY_CONVERSATIONS = ("personas", "contestants", "client", "replies", "limit", "evaluation.turns")
_READ_BY_ANSWERS = ("judge", *(f"evaluation.{name}" for name in ("rubric", "retries", "seed")))


def _output(files: EvaluationDir, step: str) -> Path:
    return {"conversations": files.session_turns, "answers": files.session_answers, "figures": files.figures}[step]


def _models(config: DictConfig, step: str) -> dict[str, list[LanguageModel]]:
    from psychocounsel.evaluation.session.conversations_step import asked_groups

    groups = {"conversations": asked_groups(config), "answers": ("judge",)}
    return models_of(config, groups.get(step, ()))


def _clients(config: DictConfig) -> dict[str, Any]:
    """A hash of all clients: with other files, the sessions are due again. {} if the files are not there any more."""
    try:
        ids = sorted(each.id for each in build(config, "personas").personas())
    except UserError:
        return {}
    return {"clients": hashlib.sha256("\0".join(ids).encode()).hexdigest()[:16]}


@dataclass(kw_only=True)
class SessionEvaluation(SteppedEvaluation):
    """Sessions with the clients of the group `personas`; docs/session.md explains every figure.

    Attributes:
        turns: the most replies of the counsellor in a session.
        rubric: `builtin:en`, or a rubric's folder, whose questions on safety judges answer.
        retries: of an answer that cannot be read.
        seed: of the judges' random numbers.
    """

    sections: ClassVar[tuple[str, ...]] = ("contestants", "judge", "personas")
    metric: ClassVar[str] = "missed"
    course: ClassVar[Course[EvaluationDir]] = Course(
        steps=("conversations", "answers", "figures"),
        modules={
            "conversations": "psychocounsel.evaluation.session.conversations_step",
            "answers": "psychocounsel.evaluation.session.session_answers_step",
            "figures": "psychocounsel.evaluation.session.session_figures_step",
        },
        reads={"conversations": _READ_BY_CONVERSATIONS, "answers": _READ_BY_ANSWERS, "figures": ()},
        output=_output,
        models=_models,
        sources=_clients,
        redone=("figures",),
        answering=("contestants", "client", "judge"),
        code={
            "figures": ("evaluation/session/*.py", "evaluation/safety/*.py", "evaluation/safety/*.yaml", *COMPUTED_BY)
        },
    )

    name: str = "session"
    turns: int = option(12, at_least=1, at_most=1000)
    rubric: str = "builtin:en"
    retries: int = option(2, at_least=0, at_most=20)
    seed: int = option(0, at_least=0, at_most=2**32 - 1)

    def prepare(self, config: DictConfig, run_dir: Path) -> None:
        refuse_data_keys(config, "evaluation=session talks with simulated clients")
        if len(config.replies.length_limits) != 1:
            raise UserError("replies.length_limits: evaluation=session takes one limit, as [150], or [null] for none")
        check_judges(config)
        build(config, "personas").check("personas")
        for contestant in build(config, "contestants").models():
            _check_contestant(contestant)
        super().prepare(config, run_dir)

    def figure_names(self, config: DictConfig) -> tuple[str, ...]:
        from psychocounsel.evaluation.session.session_findings import SESSION_FIGURES

        return ("hard_flags", "incomplete", *SESSION_FIGURES)

    def to_ask(self, context: StepContext[EvaluationDir], due: set[str]) -> list[str]:
        from psychocounsel.evaluation.session import conversations_step, session_answers_step

        lines = []
        if "conversations" in due:
            lines = conversations_step.estimate(context).lines("replies in sessions, at most")
        if "answers" not in due:
            return lines
        if "conversations" in due:
            return [*lines, "answers: a call for each of these replies and judge, and for each of the seeded replies"]
        return [*lines, *session_answers_step.to_ask(context)]


def _check_contestant(contestant: LanguageModel) -> None:
    """Refuse who cannot hold a session with these clients."""
    from psychocounsel.evaluation.contestants.reply_file import ReplyFile

    if isinstance(contestant, ReplyFile):
        raise UserError(
            f"model, against: {contestant.name} is a file of replies, and a session needs a model that answers; give a run, a "
            "folder, a hub id or an address"
        )
    if contestant.language not in (None, LANGUAGE):
        raise UserError(
            f"model, against: {contestant.name} speaks {contestant.language}, and clients speak {LANGUAGE}; leave it out"
        )
