"""`evaluation=reward`: how well a reward model tells the better reply of held-out pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from psychocounsel.evaluation.base import Evaluation
from psychocounsel.settings.schema import EvaluateConfig
from psychocounsel.steps.context import Bar

if TYPE_CHECKING:
    from psychocounsel.rundir.run import Run


@dataclass(kw_only=True)
class RewardEvaluation(Evaluation):
    """Accuracy, AUC, calibration and Brier score of `reward` on the pairs of `data`."""

    schema: ClassVar[type] = EvaluateConfig
    sections: ClassVar[tuple[str, ...]] = ("reward", "counterfactuals")
    metric: ClassVar[str] = "accuracy"

    name: str = "reward"

    def work(self, run: Run, bar: Bar) -> int:
        from psychocounsel.distributed.world import World
        from psychocounsel.errors import DONE
        from psychocounsel.evaluation.reward_evaluation import evaluate_reward
        from psychocounsel.model.cpu import prepare_process

        run.write_state("evaluating", 0, None)
        world = World(run.rank, run.processes)
        if world.device.type == "cpu":
            prepare_process()
        evaluate_reward(run.config, run.dir, world, run.say, bar)
        return DONE
