"""`reward=ensemble`: combines several reward models, because a reply that exploits one model's faults rarely fools all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.reward.base import Conversation, RewardSettings, RoundNotes, Scorer, open_scorer
from psychocounsel.reward.combining import CombinedReward, ScoreCombination
from psychocounsel.settings.schema import option
from psychocounsel.settings.targets import build_section

if TYPE_CHECKING:
    import numpy as np
    import torch
    from omegaconf import DictConfig

    from psychocounsel.data.group import Group


@dataclass
class EnsembleReward(CombinedReward):
    """Reward that is the members' minimum, their mean less `deviations` standard deviations, or a `ScoreCombination`.

    `members` holds the settings of rewards, each with its `_target_`; `reward.sections.resolve_rewards` builds
    them from the user's settings.
    """

    several: ClassVar[bool] = True

    members: list[Any] = option([])
    combine: str = option("mean", choices=("mean", "min", "lower", "lexicographic", "constraint"))
    deviations: float | None = option(
        None, above=0
    )  # None by default, so that runs of earlier versions keep their identity
    normalise: bool = True

    def open(self, device: torch.device) -> Scorer:
        """Open every member, one after another."""
        opened = {member.name: open_scorer(member, device) for member in self._members()}
        deviations = 1.0 if self.deviations is None else self.deviations
        return EnsembleScorer(opened, self.combination(self.combine), deviations)

    def check(self, key: str) -> None:
        for index, member in enumerate(self._members()):
            member.check(f"{key}.members[{index}]")
        if self.deviations is not None and self.combine != "lower":
            raise UserError(
                f"{key}.deviations={self.deviations:g}: only {key}.combine=lower subtracts standard deviations"
            )

    def check_settled(self, key: str) -> None:
        names = [str(member["name"]) for member in self.members]
        self.check_combination(key, self.combine, names, f"{{{names[-1]}: 0}}")
        for index, member in enumerate(self._members()):
            member.check_settled(f"{key}.members[{index}]")
            if getattr(member, "combine", None) == "constraint":
                raise UserError(
                    f"{key}.members[{index}].combine=constraint: only the whole ensemble can be constrained"
                )

    def receivers(self, key: str) -> list[tuple[str, str]]:
        """Return the addresses of all members."""
        members = enumerate(self._members())
        return [receiver for index, member in members for receiver in member.receivers(f"{key}.members[{index}]")]

    def memory(self, config: DictConfig, key: str) -> dict[str, float | None]:
        """Return the memory of all members."""
        parts: dict[str, float | None] = {}
        for index, member in enumerate(self._members()):
            parts |= member.memory(config, f"{key}.members[{index}]")
        return parts

    def _members(self) -> list[RewardSettings]:
        return [build_section(OmegaConf.create(member), "reward") for member in self.members]


class EnsembleScorer(Scorer):
    """Scorer that combines the rewards of `members`.

    `rule`: a `ScoreCombination`, in which `min` is the minimum, and `lower` is mean - `deviations` * sd over the members (sd
    with n in the denominator), a pessimistic reward as in Coste et al. 2023 (arXiv 2310.02743), who subtract the variance.

    `parts` holds each member's rewards of the last scored conversations, float32[n], by name.
    """

    def __init__(self, members: Mapping[str, Scorer], rule: ScoreCombination, deviations: float) -> None:
        self.members, self.rule, self.deviations = members, rule, deviations
        self.models = [model for member in members.values() for model in member.models]

    def score(
        self, conversations: Sequence[Conversation], progress: Callable[[range], Iterable[int]] = iter
    ) -> np.ndarray:
        """Implements `Scorer.score`."""
        import numpy as np

        self.parts = {name: member.score(conversations, progress) for name, member in self.members.items()}
        rewards = np.stack([*self.parts.values()])
        if self.rule.kind == "min":
            return rewards.min(0)
        if self.rule.kind == "lower":
            combined = rewards.mean(0, dtype=np.float64) - self.deviations * rewards.std(0, dtype=np.float64)
            return combined.astype(np.float32)
        return self.rule(self.parts).astype(np.float32)

    def finish_round(self, groups: Sequence[Group], notes: RoundNotes) -> None:
        self.rule.constrain(groups, notes)
