"""Settings of `evaluation=external`: published benchmarks from the user's own files, and general ability by lm-eval."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from psychocounsel.data.sources import StandardSource
from psychocounsel.errors import UserError
from psychocounsel.evaluation.external.ability import AbilityTasks, check_ability, weights_of
from psychocounsel.evaluation.external.set_files import read_sets, set_file
from psychocounsel.evaluation.stepped import COMPUTED_BY, SteppedEvaluation, models, outputs
from psychocounsel.grading.criteria import RubricSet
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.paths import check_local_path
from psychocounsel.settings.schema import option
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import Course, StepContext

_STEPS = "psychocounsel.evaluation.external"


def _sources(config: DictConfig) -> dict[str, Any]:
    """Return the size [bytes] and modification time [ns] of each file that the sets use."""
    stamps: dict[str, Any] = {}
    for number, entry in enumerate(_plain(config.evaluation.sets)):
        file = set_file(entry, f"evaluation.sets[{number}]")
        for path in (
            path for source in (file.path, file.criteria) if source for path in StandardSource().files(source)
        ):
            stamps[str(path)] = [path.stat().st_size, path.stat().st_mtime_ns]
    return stamps


def _plain(sets: Any) -> list[Any]:
    return OmegaConf.to_container(sets) if OmegaConf.is_config(sets) else sets  # type: ignore[return-value]


@dataclass(kw_only=True)
class External(SteppedEvaluation):
    """Evaluation by published benchmarks; docs/benchmarks.md explains every figure.

    Attributes:
        sets: files, or mappings with the fields of SetFile.
        shuffles: number of random orders of an exam item's choices, in addition to the file's order.
        seed: seed of these orders and of the models' random numbers.
        lm_eval, lm_eval_folder, lm_eval_limit, lm_eval_batch, lm_eval_chat: see AbilityTasks.
    """

    sections: ClassVar[tuple[str, ...]] = ("contestants", "judge")
    metric: ClassVar[str] = "accuracy"
    course: ClassVar[Course[EvaluationDir]] = Course(
        steps=("sets", "ability", "figures"),
        modules={
            "sets": f"{_STEPS}.sets_step",
            "ability": f"{_STEPS}.ability",
            "figures": f"{_STEPS}.figures_step",
        },
        reads={
            "sets": ("contestants", "judge", "replies", "crisis_to_third_parties"),
            "ability": ("contestants",),
        },
        group="evaluation",
        output=outputs(sets="ratings", ability="ability", figures="figures"),
        models=models(sets=("contestants", "judge")),
        sources=_sources,
        answering=("contestants", "judge"),
        code={"figures": ("evaluation/external/*.py", "grading/criteria.py", *COMPUTED_BY)},
    )

    name: str = "external"
    sets: list[Any] = option([], path="watched", step="sets")
    shuffles: int = option(1, at_least=0, at_most=20, step="sets")
    seed: int = option(0, at_least=0, at_most=2**32 - 1, step="sets")
    lm_eval: list[str] = option([], step="ability")
    lm_eval_folder: str | None = option(None, path=True, step="ability")
    lm_eval_limit: int | None = option(None, at_least=1, step="ability")
    lm_eval_batch: int = option(8, at_least=1, step=())
    lm_eval_chat: bool = option(False, step="ability")

    def tasks(self) -> AbilityTasks:
        """Return the tasks for lm-eval."""
        return AbilityTasks(
            list(self.lm_eval), self.lm_eval_folder, self.lm_eval_limit, self.lm_eval_batch, self.lm_eval_chat
        )

    def prepare(self, config: DictConfig, run_dir: Path) -> None:
        if not self.sets and not self.lm_eval:
            raise UserError(
                "evaluation=external: nothing to measure; set evaluation.sets=[FILE] or evaluation.lm_eval=[TASK]"
            )
        if [*config.replies.length_limits] != [None]:
            raise UserError("replies.length_limits: evaluation=external asks for replies of any length; leave it out")
        if self.lm_eval:
            check_ability(self.tasks())
            for model in build(config, "contestants").models():
                weights_of(model)
        for number, entry in enumerate(_plain(self.sets)):
            file = set_file(entry, key := f"evaluation.sets[{number}]")
            check_local_path(file.path, key, of_data=True, revision=file.revision)
        sets = read_sets(_plain(self.sets))
        judges = build(config, "judge").models()
        has_rubrics = any(isinstance(item_set, RubricSet) for item_set in sets)
        if has_rubrics and not all(judge.reads_prompts for judge in judges):
            raise UserError(
                "judge: a reward model cannot rate by criteria; use a language model: judge=local_vllm judge.model=NAME"
            )
        super().prepare(config, run_dir)

    def unused(self, config: Any = None) -> dict[str, str]:
        reasons = {} if self.sets else dict.fromkeys(("shuffles", "seed"), "evaluation.sets is empty")
        names = ("lm_eval_folder", "lm_eval_limit", "lm_eval_batch", "lm_eval_chat")
        return reasons | ({} if self.lm_eval else dict.fromkeys(names, "evaluation.lm_eval is empty"))

    def figure_names(self, config: DictConfig) -> tuple[str, ...]:
        return ("accuracy", "score", "*/accuracy", "*/score")

    def to_ask(self, context: StepContext[EvaluationDir], due: set[str]) -> list[str]:
        from psychocounsel.evaluation.external import sets_step

        return sets_step.estimate(context).lines("sets (calls for ratings not counted)") if "sets" in due else []
