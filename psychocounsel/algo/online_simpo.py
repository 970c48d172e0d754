"""Online iterative SimPO: pairs of the policy's own replies, as a reward model judges them, and no reference."""

from __future__ import annotations

from dataclasses import dataclass

from psychocounsel.algo.online import OnlinePairs
from psychocounsel.algo.simpo import SimPO


@dataclass
class OnlineSimPO(OnlinePairs, SimPO):
    """SimPO's loss (arXiv 2405.14734, eq. 6) on the pairs that `OnlinePairs` collects in each round."""
