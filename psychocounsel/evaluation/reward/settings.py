"""Settings of `evaluation=reward`, which measures how well reward models recognise the better reply of a pair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from omegaconf import DictConfig

from psychocounsel.asking.model_groups import require_keys
from psychocounsel.errors import DONE
from psychocounsel.evaluation.base import Evaluation
from psychocounsel.evaluation.settings import EvaluateConfig
from psychocounsel.reward.sections import judge_models
from psychocounsel.rundir.trained_runs import is_up_to_date
from psychocounsel.settings.schema import option
from psychocounsel.steps.course import Bar

if TYPE_CHECKING:
    from psychocounsel.rundir.run import Run

_WITH_INTERVALS = (
    *("accuracy", "auc", "ece", "brier", "ece_adaptive", "calibration_slope", "calibration_intercept", "aurc"),
    *("accuracy_at_90", "accuracy_at_80", "accuracy_at_50", "flipped_accuracy"),
)
FIGURE_NAMES = (
    *(f"{name}{end}" for name in _WITH_INTERVALS for end in ("", "_low", "_high")),
    *("pairs", "prompts", "reward_mean", "reward_std", "longer_reply_accuracy", "flipped_pairs", "worst_control"),
)


@dataclass(kw_only=True)
class RewardEvaluation(Evaluation):
    """Accuracy, AUC, calibration and Brier score of `reward` and of the models in `compare`, on the pairs of `data`.

    Attributes:
        baselines: True computes the audit's baselines, False skips them; None computes them for at most 1000 pairs.
        controls: number of speeches on which each model meets replies made by rule (echoes, loops, ...); 0: none.
    """

    schema: ClassVar[type] = EvaluateConfig
    sections: ClassVar[tuple[str, ...]] = ("reward", "compare", "budget")
    metric: ClassVar[str] = "accuracy"

    name: str = "reward"
    baselines: bool | None = None
    controls: int = option(40, at_least=0)

    def work(self, run: Run, bar: Bar) -> int:
        from psychocounsel.asking.budget import BudgetSpent
        from psychocounsel.distributed.world import World
        from psychocounsel.evaluation.reward.evaluation import evaluate_reward
        from psychocounsel.model.cpu import prepare_process
        from psychocounsel.steps.running import end_without_budget

        run.write_state("evaluating", 0, None)
        world = World(run.rank, run.processes)
        if world.device.type == "cpu":
            prepare_process()
        try:
            evaluate_reward(run.config, run.dir, world, run.say, bar)
        except BudgetSpent as spent:
            return end_without_budget(run, spent)
        return DONE

    def prepare(self, config: DictConfig, run_dir: Path) -> None:
        """Check the rankers: their rubric, prices for the budget, keys in the environment, and access to the network."""
        if is_up_to_date(run_dir) or not [*judge_models(config)]:
            return
        from psychocounsel.asking.budget import Budget
        from psychocounsel.asking.parties import refuse_internet_of
        from psychocounsel.evaluation.judging.pairs import pair_prompt
        from psychocounsel.evaluation.reward.rankers import rankers_of

        rankers = dict(rankers_of(config))
        for ranker in rankers.values():
            pair_prompt(ranker.rubric, ranker.examples)
            Budget(config.budget.cost, models=[ranker.model()])
        if not config.dry_run:
            require_keys(config, ["compare"])
        refuse_internet_of(config, rankers)

    def figure_names(self, config: DictConfig) -> tuple[str, ...]:
        return FIGURE_NAMES

    def forecast(self, config: DictConfig) -> list[str]:
        if not [*judge_models(config)]:
            return []
        from psychocounsel.evaluation.reward.rankers import ranking_forecast

        return ranking_forecast(config)
