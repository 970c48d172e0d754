"""Online DPO: each round builds pairs from the policy's replies, ranked by a reward model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from psychocounsel.algo.dpo import DPO
from psychocounsel.algo.online import OnlinePairs
from psychocounsel.settings.schema import option


@dataclass
class OnlineDPO(OnlinePairs, DPO):
    """DPO's losses on the pairs that `OnlinePairs` builds in each round.

    `reference`: the policy before training ("initial") or at the start of each round ("round").
    """

    reference: str = option("initial", choices=("initial", "round"))

    @property
    def reference_kind(self) -> Literal["none", "initial", "round", "model"]:
        return cast(Literal["initial", "round"], self.reference)
