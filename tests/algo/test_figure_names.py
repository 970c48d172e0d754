"""Algorithms and evaluations produce exactly the figures that they declare; misspelt names are rejected."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from psychocounsel.algo.base import Algorithm, Outputs, Term
from psychocounsel.algo.dpo import DPO
from psychocounsel.algo.kto import KTO
from psychocounsel.algo.modpo import MODPO
from psychocounsel.algo.orpo import ORPO
from psychocounsel.algo.reward import Reward
from psychocounsel.algo.sft import SFT
from psychocounsel.algo.simpo import SimPO
from psychocounsel.data.batch import Batch
from psychocounsel.engine.step import metrics_of
from psychocounsel.errors import UserError
from psychocounsel.evaluation.reward.figures import reward_figures
from psychocounsel.evaluation.reward.settings import FIGURE_NAMES
from tests.support.composed import check, compose, figures_of
from tests.support.harness import make_stepper, random_groups, small_lm

ALGORITHMS: dict[str, Callable[[], Algorithm]] = {
    "sft": SFT,
    "reward": Reward,
    "reward_centring": lambda: Reward(centring=0.01),
    "reward_heads": lambda: Reward(heads="principles"),
    "dpo": DPO,
    "dpo_sft": lambda: DPO(sft_weight=0.2),
    "modpo": MODPO,
    "simpo": SimPO,
    "simpo_sft": lambda: SimPO(sft_weight=0.3),
    "orpo": ORPO,
    "kto": KTO,
}


@dataclass
class OwnLoss(DPO):
    """A user's own algorithm that declares no figure names."""

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        return {**super().loss(outputs, batch), "mine": Term(torch.zeros(()), "pairs", 0.0)}


@pytest.mark.usefixtures("in_process_training")
@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_gives_the_figures_that_it_names(name: str) -> None:
    algorithm = ALGORITHMS[name]()
    groups = random_groups(4, longest=20)
    if isinstance(algorithm, KTO):
        algorithm._kl = 0.1
        for group in groups:
            for place, reply in enumerate(group.completions):
                reply.label = place == 0
    for number, reply in enumerate(reply for group in groups for reply in group.completions):
        reply.ratings = np.arange(number, number + 7, dtype=np.float32)
    labels = {"num_labels": len(algorithm.score_names) or 1} if isinstance(algorithm, Reward) else {}
    lm = small_lm(rewards=isinstance(algorithm, Reward), pad_token_id=0, **labels)
    tally, scores = make_stepper(lm, algorithm, 4096, torch.float32).accumulate(groups, train=False)
    found = metrics_of(tally) | (algorithm.evaluation(groups, scores) if scores else {})
    assert sorted({each.removeprefix("rewards/") for each in found}) == sorted(algorithm.figure_names() or ())


def test_the_figures_of_a_reward_model_are_all_named() -> None:
    margins = np.random.default_rng(0).normal(0.5, 1, 60)
    found = reward_figures([str(row) for row in range(60)], margins, np.arange(60))
    assert found.keys() < set(FIGURE_NAMES)
    assert set(FIGURE_NAMES) - found.keys() == {
        *("pairs", "prompts", "reward_mean", "reward_std", "longer_reply_accuracy", "worst_control"),
        *("flipped_pairs", "flipped_accuracy", "flipped_accuracy_low", "flipped_accuracy_high"),
    }


def test_figures_of_a_loss_of_ones_own_are_not_known_and_those_of_replies_always_are() -> None:
    own = check(compose([f"algo._target_={__name__}.OwnLoss", "checkpoint.metric=eval/mine", "checkpoint.mode=max"]))
    assert figures_of(own) is None
    online = figures_of(check(compose(["algo=online_dpo", "guard.kl=3"]))) or []
    assert {"eval/reward", "eval/kl", "guard/kl"} <= {*online}
    assert "eval/kl" not in (figures_of(check(compose(["algo=online_simpo"]))) or [])
    assert figures_of(check(compose(["data.dev_fraction=0"]))) == []


def test_a_misspelt_checkpoint_metric_is_refused_before_a_run_starts() -> None:
    with pytest.raises(
        UserError, match=r"^checkpoint.metric=eval/acuracy: no such figure; did you mean eval/accuracy\?"
    ):
        check(compose(["checkpoint.metric=eval/acuracy"]))


def test_a_checkpoint_metric_of_an_unknown_direction_asks_for_it() -> None:
    given = ["eval.replies=true", "checkpoint.metric=eval/length"]
    with pytest.raises(
        UserError, match=r"eval/length: is its smallest or its largest value the best\? Add checkpoint.mode=min or"
    ):
        check(compose(given))
    assert check(compose([*given, "checkpoint.mode=min"])).checkpoint.mode == "min"
    check(compose(["data.dev_fraction=0", "checkpoint.metric=eval/mine"]))
