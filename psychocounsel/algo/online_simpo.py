"""Online SimPO: each round builds pairs from the policy's replies, ranked by a reward model. It has no reference."""

from __future__ import annotations

from dataclasses import dataclass

from psychocounsel.algo.online import OnlinePairs
from psychocounsel.algo.simpo import SimPO


@dataclass
class OnlineSimPO(OnlinePairs, SimPO):
    """SimPO's loss (arXiv 2405.14734, eq. 6) on the pairs that `OnlinePairs` builds in each round."""
