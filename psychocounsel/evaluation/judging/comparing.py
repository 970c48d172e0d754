"""Keys and checks of evaluations in which judges compare pairs of replies. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from psychocounsel.errors import UserError
from psychocounsel.evaluation.stepped import SteppedEvaluation
from psychocounsel.settings.schema import option
from psychocounsel.settings.targets import build

READ_BY_VERDICTS = ("judge", "crisis_to_third_parties")


@dataclass(kw_only=True)
class ComparingEvaluation(SteppedEvaluation):
    """Base of evaluations with a step in which judges compare pairs of replies, each pair in both orders.

    Attributes:
        rubric: `builtin:en` or the folder of a rubric, for judges that read a prompt.
        examples: True adds the rubric's rated examples to the prompt.
        retries: number of times that a judge is asked again after an unreadable verdict.
        seed: seed of the order of principles and of the judges' random numbers.
        include_near: True also judges speeches that are nearly the same as training data.
    """

    rubric: str = option("builtin:en", path=True, step="verdicts")
    examples: bool = option(False, step="verdicts")
    retries: int = option(2, at_least=0, at_most=20, step="verdicts")
    seed: int = option(0, at_least=0, at_most=2**32 - 1, step="verdicts")
    include_near: bool = option(False, step="verdicts")

    def prepare(self, config: DictConfig, run_dir: Path) -> None:
        super().prepare(config, run_dir)
        _refuse_word_checks(config)
        if any(model.reads_prompts for model in build(config, "judge").models()):
            from psychocounsel.evaluation.judging.pairs import pair_prompt

            pair_prompt(self.rubric, self.examples)

    def unused(self, config: Any = None) -> dict[str, str]:
        if any(model.reads_prompts for model in build(config, "judge").models()):
            return {}
        return dict.fromkeys(("rubric", "examples", "retries", "seed"), "no judge reads a prompt")


def _refuse_word_checks(config: DictConfig) -> None:
    from psychocounsel.evaluation.safety.word_checks import Checks

    if any(isinstance(judge, Checks) for judge in build(config, "judge").models()):
        raise UserError(
            "judge=checks: answers questions about single replies and compares none; give judge=local_vllm judge.model=NAME, "
            "or judge=reward"
        )
