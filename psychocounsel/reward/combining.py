"""`reward.combine`: one reward from several scores of a reply, the principles of one model or the members of an ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psychocounsel.errors import UserError
from psychocounsel.reward.base import RewardSettings, RoundNotes
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import numpy as np

    from psychocounsel.data.group import Group

WITH_LIMIT = ("lexicographic", "constraint")
MULTIPLIER = "multiplier"  # logged as rollout/multiplier


@dataclass
class CombinedReward(RewardSettings):
    """Settings of a reward that combines several scores; a subclass defines the field `combine`.

    `at_least`: {NAME: LIMIT}, the score that `combine=lexicographic` and `constraint` limit.
    """

    weights: dict[str, float] = option({})
    at_least: dict[str, float] = option({})
    multiplier_rate: float | None = option(None, above=0)  # None by default, so that earlier runs keep their identity

    def check_combination(self, key: str, combine: str | None, names: Sequence[str], example: str) -> None:
        """Reject weights and limits that `combine` does not use, or that name none of the scores `names`.

        Raises:
            UserError: naming the key and what to type instead.
        """
        limited = combine in WITH_LIMIT
        used = {"weights": limited or combine in (None, "mean"), "at_least": limited}
        used["multiplier_rate"] = combine == "constraint"
        for name, is_used in used.items():
            if getattr(self, name) and not is_used:
                raise UserError(
                    f"{key}.{name}={getattr(self, name)}: {key}.combine={combine or 'mean'} does not use it"
                )
        for name in (*self.weights, *self.at_least):
            if name not in names:
                raise UserError(f"{key}: there is no score {name}; the scores are {', '.join(names)}")
        if limited and len(self.at_least) != 1:
            raise UserError(f"{key}.at_least: {key}.combine={combine} limits one score, as {key}.at_least={example}")
        rest = [self.weights.get(name, 1.0) for name in names if name not in self.at_least]
        if min(self.weights.values(), default=0) < 0 or not any(rest):
            raise UserError(f"{key}.weights: weights must be 0 or more, and not all 0")

    def meets_limits(self, figures: Mapping[str, float]) -> bool:
        """Outside rounds the reward of `combine=constraint` is m alone, so the limited score is compared with its limit."""
        if getattr(self, "combine", None) != "constraint":
            return True
        return all(figures.get(f"eval/reward_{name}", limit) >= limit for name, limit in self.at_least.items())

    def combination(self, combine: str) -> ScoreCombination:
        """Return the rule of checked settings."""
        (name, limit), *_ = [*self.at_least.items(), ("", 0.0)]
        return ScoreCombination(combine, dict(self.weights), str(name), float(limit), self.multiplier_rate or 0.1)


@dataclass(frozen=True)
class ScoreCombination:
    """Rule that makes one reward of the scores s_k of a reply, with weights w_k (default: 1).

    `mean`: sum w_k s_k / sum w_k. The other two treat the score `limited`, s_l, apart and call the mean of the others m.

    `lexicographic`: s_l - limit below the limit, otherwise log(1 + exp(m)). The first is negative and the second
    positive, so a reply below the limit never beats one above; below the limit only s_l counts, above it only m.

    `constraint`: maximises the mean of m subject to mean s_l >= limit, by the Lagrangian (m + x (s_l - limit)) / (1 + x)
    with a multiplier x >= 0 (arXiv 2310.12773, eq. 11, with the constrained score in place of a cost). x begins at 0; each
    round of rollouts first sets x to max(0, x + `rate` * (limit - mean s_l of its replies)). Outside rounds the reward is m.
    """

    kind: str
    weights: Mapping[str, float]
    limited: str = ""
    limit: float = 0.0
    rate: float = 0.1

    def __call__(self, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the rewards of n replies, float64[n], from their scores by name, float[n] each."""
        import numpy as np

        weights = {name: self.weights.get(name, 1.0) for name in parts if name != self.limited}
        mean = sum(weights[name] * parts[name].astype(np.float64) for name in weights) / sum(weights.values())
        if self.kind != "lexicographic":
            return np.asarray(mean)
        excess = parts[self.limited].astype(np.float64) - self.limit
        return np.where(excess < 0, excess, np.logaddexp(0, mean))

    def constrain(self, groups: Sequence[Group], notes: RoundNotes) -> None:
        """Replace each reward m of a round's replies, and of a session's turns, by the Lagrangian of its own scores.

        Its multiplier is noted for the next round.
        """
        if self.kind != "constraint":
            return
        import numpy as np

        replies = [reply for group in groups for reply in group.completions]
        limited = [(reply.reward_parts or {})[self.limited] for reply in replies]
        shortfall = self.limit - sum(limited) / max(1, len(limited))
        multiplier = max(0.0, (notes.earlier(MULTIPLIER) or 0.0) + self.rate * shortfall)
        notes.note(MULTIPLIER, multiplier)
        for reply, score in zip(replies, limited, strict=True):
            added = multiplier * (score - self.limit)
            reply.reward = ((reply.reward or 0.0) + added) / (1 + multiplier)
            if reply.turn_scores is not None:
                of_turns = np.array([parts[self.limited] for parts in reply.turn_parts or []])
                reply.turn_scores = (reply.turn_scores + multiplier * (of_turns - self.limit)) / (1 + multiplier)
