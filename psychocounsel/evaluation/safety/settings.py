"""Settings of `evaluation=safety`, which measures if replies notice a risk, guide to help in time, and do no harm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig

from psychocounsel.counsel.rubric import load_rubric
from psychocounsel.errors import UserError
from psychocounsel.evaluation.stepped import COMPUTED_BY, SteppedEvaluation, models, outputs, replies_to_ask
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.schema import option
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import Course, StepContext
from psychocounsel.storage.text_hashes import text_id

# Code that computes figures of judged replies; the YAML files hold the expected actions and the seeded replies.
JUDGED_BY = (
    *("evaluation/safety/**/*.py", "evaluation/safety/**/*.yaml", "evaluation/flows/*.py", "evaluation/health/*.py"),
    *COMPUTED_BY,
)


def _texts(config: DictConfig) -> dict[str, Any]:
    """Return a hash of all texts of the crisis set, so that a changed text makes the replies due again."""
    from psychocounsel.evaluation.safety.speeches import crisis_speeches, swapped_speeches

    texts = [*(speech.text for speech in crisis_speeches()), *(swap.text for swap in swapped_speeches())]
    return {"texts": text_id(*texts)}


@dataclass(kw_only=True)
class SafetyEvaluation(SteppedEvaluation):
    """Evaluation of single replies to the crisis set; docs/safety.md explains every figure.

    Attributes:
        rubric: `builtin:en` or the folder of a rubric. Judges answer its safety questions.
        retries: number of times that a judge is asked again after an unreadable answer.
        seed: seed of the judges' random numbers.
        swaps: True adds variants of some speeches with another dialect, gender or age.
        set_review: the file set_review.csv of an experts' review of the crisis set.
    """

    sections: ClassVar[tuple[str, ...]] = ("contestants", "judge")
    metric: ClassVar[str] = "missed"
    instead_of_data: ClassVar[str] = "the crisis set"
    course: ClassVar[Course[EvaluationDir]] = Course(
        steps=("replies", "answers", "figures"),
        modules={
            "replies": "psychocounsel.evaluation.safety.replies_step",
            "answers": "psychocounsel.evaluation.safety.answers_step",
            "figures": "psychocounsel.evaluation.safety.figures_step",
        },
        reads={"replies": ("contestants", "replies", "crisis_to_third_parties", "limit"), "answers": ("judge",)},
        group="evaluation",
        output=outputs(replies="replies", answers="safety_answers", figures="figures"),
        models=models(replies=("contestants",), answers=("judge",)),
        sources=_texts,
        redone=("figures",),
        answering=("contestants", "judge"),
        code={"figures": JUDGED_BY},
    )

    name: str = "safety"
    rubric: str = option("builtin:en", path=True, step="answers")
    retries: int = option(2, at_least=0, at_most=20, step="answers")
    seed: int = option(0, at_least=0, at_most=2**32 - 1, step="answers")
    swaps: bool = option(True, step="replies")
    set_review: str | None = option(None, path=True, step="figures")

    def prepare(self, config: DictConfig, run_dir: Path) -> None:
        from psychocounsel.evaluation.safety.speeches import crisis_speeches, validation

        validation(self.set_review, crisis_speeches())
        self.refuse_data_keys(config)
        check_judges(config)
        super().prepare(config, run_dir)

    def figure_names(self, config: DictConfig) -> tuple[str, ...]:
        from psychocounsel.evaluation.safety.questions import SAFETY_FIGURES

        return ("hard_flags", *SAFETY_FIGURES)

    def to_ask(self, context: StepContext[EvaluationDir], due: set[str]) -> list[str]:
        from psychocounsel.evaluation.safety import answers_step, replies_step

        lines = replies_to_ask(context, replies_step.set_speeches) if "replies" in due else []
        return [*lines, *answers_step.to_ask(context, "replies" in due)] if "answers" in due else lines


def check_judges(config: DictConfig) -> None:
    """Check the rubric, and reject judges that cannot answer questions.

    Raises:
        UserError: if a judge is a reward model, or the rubric is wrong. The message names the judge or lists the problems.
    """
    from psychocounsel.evaluation.judging.judges import RewardJudge

    load_rubric(config.evaluation.rubric)
    for judge in build(config, "judge").models():
        if isinstance(judge, RewardJudge):
            raise UserError(
                f"judge: {judge.name} scores replies and answers no questions; give judge=checks, or a language model such as "
                "judge=local_vllm"
            )
