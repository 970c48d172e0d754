"""Settings of `evaluation=session`, which measures if a counsellor recognises and follows up risk over whole sessions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig

from psychocounsel.asking.language_model import LanguageModel
from psychocounsel.evaluation.safety.settings import JUDGED_BY, check_judges
from psychocounsel.evaluation.stepped import SteppedEvaluation, models_of, outputs
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.schema import option
from psychocounsel.steps.course import Course, StepContext
from psychocounsel.storage.files import with_noun


def _models(config: DictConfig, step: str) -> dict[str, list[LanguageModel]]:
    from psychocounsel.evaluation.session.conversations_step import asked_groups

    groups = {"conversations": asked_groups(config), "answers": ("judge",)}
    groups |= {"flows": ("judge",)} if config.evaluation.flow is not None else {}
    return models_of(config, groups.get(step, ()))


def _made_of(config: DictConfig) -> dict[str, Any]:
    from psychocounsel.evaluation.session.inputs import made_of

    return made_of(config)


@dataclass(kw_only=True)
class SessionEvaluation(SteppedEvaluation):
    """Evaluation of sessions with the simulated clients of the group `personas`; docs/safety.md explains every figure.

    Attributes:
        turns: largest number of replies by the counsellor in a session.
        rubric: `builtin:en` or the folder of a rubric. Judges answer its safety questions.
        transcripts: file or folder of finished conversations to judge instead of new sessions; None: hold new sessions.
        flow: a rubric of questions about whole sessions in VERA-MH's format, or a checkout of VERA-MH; None: no such rubric.
        retries: number of times that a model is asked again after an unreadable answer.
        seed: seed of the judges' random numbers.
    """

    sections: ClassVar[tuple[str, ...]] = ("contestants", "judge", "personas", "client")
    metric: ClassVar[str] = "missed"
    instead_of_data: ClassVar[str] = "simulated clients"
    course: ClassVar[Course[EvaluationDir]] = Course(
        steps=("conversations", "answers", "flows", "figures"),
        modules={
            "conversations": "psychocounsel.evaluation.session.conversations_step",
            "answers": "psychocounsel.evaluation.session.answers_step",
            "flows": "psychocounsel.evaluation.session.flows_step",
            "figures": "psychocounsel.evaluation.session.figures_step",
        },
        reads={
            "conversations": ("personas", "contestants", "client", "replies", "limit"),
            "answers": ("judge",),
            "flows": ("judge",),
        },
        group="evaluation",
        output=outputs(
            conversations="session_turns", answers="session_answers", flows="flow_answers", figures="figures"
        ),
        models=_models,
        sources=_made_of,
        redone=("figures",),
        answering=("contestants", "client", "judge"),
        code={"figures": ("evaluation/session/**/*.py", *JUDGED_BY)},
    )

    name: str = "session"
    turns: int = option(12, at_least=1, at_most=1000, step="conversations")
    rubric: str = option("builtin:en", path=True, step="answers")
    transcripts: str | None = option(None, path="watched", step="conversations")
    flow: str | None = option(None, path="watched", step="flows")
    retries: int = option(2, at_least=0, at_most=20, step=("answers", "flows"))
    seed: int = option(0, at_least=0, at_most=2**32 - 1, step=("answers", "flows"))

    def prepare(self, config: DictConfig, run_dir: Path) -> None:
        from psychocounsel.evaluation.session.inputs import check_inputs

        self.refuse_data_keys(config)
        check_judges(config)
        check_inputs(config)
        super().prepare(config, run_dir)

    def unused(self, config: Any = None) -> dict[str, str]:
        """Return `turns` if finished conversations are judged."""
        return {} if self.transcripts is None else {"turns": "evaluation.transcripts names finished conversations"}

    def unused_sections(self, config: DictConfig) -> dict[str, str]:
        from psychocounsel.evaluation.session.inputs import idle_keys

        return idle_keys(config)

    def figure_names(self, config: DictConfig) -> tuple[str, ...]:
        from psychocounsel.evaluation.session.findings import SESSION_FIGURES

        return ("hard_flags", "incomplete", *SESSION_FIGURES)

    def to_ask(self, context: StepContext[EvaluationDir], due: set[str]) -> list[str]:
        from psychocounsel.evaluation.session import answers_step, conversations_step, flows_step

        config, lines = context.config, list[str]()
        if "conversations" in due and self.transcripts is not None:
            conversations_step.run(context)  # asks no model, and writes the table to the draft
            due = due - {"conversations"}
        if "conversations" in due:
            lines = conversations_step.estimate(context).lines("replies in sessions, at most")
        if "answers" in due:
            lines += answers_step.to_ask(context, "conversations" in due)
        prompt = flows_step.flow_prompt(config) if "flows" in due else None
        if prompt is not None and "conversations" in due:
            lines.append(
                f"flows: at most {with_noun(len(prompt.flow.questions), 'call')} per judge for each of these sessions"
            )
        elif prompt is not None:
            lines += flows_step.estimate(context).lines("flows, at most")
        return lines
