"""Online iterative DPO: pairs of the policy's own replies, as a reward model judges them."""

from __future__ import annotations

from dataclasses import dataclass

from psychocounsel.algo.base import Needs
from psychocounsel.algo.dpo import DPO
from psychocounsel.algo.online import OnlinePairs
from psychocounsel.settings.schema import option


@dataclass
class OnlineDPO(OnlinePairs, DPO):
    """DPO's losses on the pairs that `OnlinePairs` collects in each round."""

    reference: str = option("initial", choices=("initial", "round"))

    needs = Needs(models=frozenset({"policy", "reference"}), data="prompts", rollouts=True, reward=True)
