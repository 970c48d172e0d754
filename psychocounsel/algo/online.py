"""Bases of online algorithms, which learn from replies of the policy itself, round by round.

An online algorithm is one dataclass, in one of three ways:

- `class Mine(Online)` with its own `collect`, which turns the scored replies of a round into groups to train on, and its
  own `loss`;
- `class Mine(OnlinePairs, DPO)`: `OnlinePairs` collects preference pairs, and any algorithm that learns from pairs gives the
  loss. The online base comes first;
- `class Mine(PolicyGradient)` (`algo.policy_gradient`) with advantages, as RLOO and GRPO do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psychocounsel.algo.base import Algorithm, Context, Needs, RoundPlan, collect_reference
from psychocounsel.errors import UserError
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import numpy as np
    from omegaconf import DictConfig

    from psychocounsel.data.group import Group

# At most so many pairs of a round are compared, and an eighth of it: no loss reads them, they cost a pass for the metric.
_COMPARED_PAIRS = 32


@dataclass
class Online(Algorithm):
    """Base of algorithms that learn from replies of the policy itself.

    A round takes `prompts_per_round` prompts (by default those of a step), writes `samples` replies to each, scores them,
    and trains `passes` times over the groups that `collect` makes of them, in steps of `global_batch_size` prompts.

    A subclass defines `collect` and `loss`, and `needs` where it needs more models than its bases do together.

    Raises:
        UserError: when a subclass names an offline algorithm before an online base, whose `collect` it would hide.
    """

    samples: int = option(4, at_least=1)
    prompts_per_round: int | None = option(None, at_least=1)
    passes: int = option(1, at_least=1)
    length_penalty: float = option(0.0, at_least=0)
    unfinished_penalty: float = option(0.0, at_least=0)
    repetition_penalty: float = option(0.0, at_least=0)

    needs = Needs(data="prompts", rollouts=True, reward=True)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _check_order(cls)
        if "needs" not in vars(cls):
            bases = [base for base in cls.__bases__ if issubclass(base, Algorithm)]
            cls.needs = replace(Online.needs, models=frozenset().union(*(base.needs.models for base in bases)))

    @property
    def round(self) -> RoundPlan:
        return RoundPlan(self.samples, self.prompts_per_round, self.passes)

    def rewards(self, group: Group, ctx: Context) -> list[float]:
        """What the replies of a group count: their rewards less the penalties, whose means are counted, each by its name.

        `length_penalty` is per token, `unfinished_penalty` for a reply that was cut, `repetition_penalty` times the share of
        runs of four tokens that a reply has before.
        """
        from psychocounsel.metrics.replies import repetition

        found = []
        for reply in group.completions:
            terms = {
                "length_penalty": self.length_penalty * len(reply.ids),
                "unfinished_penalty": self.unfinished_penalty * (reply.finish_reason == "length"),
                "repetition_penalty": self.repetition_penalty * repetition(reply.ids.tolist()),
            }
            for name, penalty in terms.items():
                if getattr(self, name):
                    ctx.count(name, penalty / len(group.completions))
            found.append((reply.reward or 0.0) - sum(terms.values()))
        return found


def _check_order(cls: type[Online]) -> None:
    """An offline algorithm may stand behind the online bases only."""
    bases = [base for base in cls.__mro__[1:] if issubclass(base, Algorithm) and base is not Algorithm]
    offline = next((place for place, base in enumerate(bases) if not issubclass(base, Online)), len(bases))
    hidden = [base.__name__ for base in bases[offline:] if issubclass(base, Online)]
    if hidden:
        given, right = (
            ", ".join(base.__name__ for base in order)
            for order in (cls.__bases__, sorted(cls.__bases__, key=lambda base: not issubclass(base, Online)))
        )
        raise UserError(
            f"class {cls.__name__}({given}): {bases[offline].__name__} hides how {hidden[0]} collects replies; write the "
            f"online base first: class {cls.__name__}({right})"
        )


@dataclass
class OnlinePairs(Online):
    """Collects preference pairs of the replies by their rewards (arXiv 2312.11456, iterative DPO).

    `pairs`: "best_worst", "best_random" (the best against any other), "margin" (all that differ by `min_margin`), or
    "top_k" (the `top_k` of them that differ most). In any case a pair needs two different replies, different rewards, and
    a difference of at least `min_margin`.

    `offline_fraction` of each global batch, rounded to whole groups, are pairs of the dataset instead; the rest has as
    many prompts less. Their reference is that of the policy before training.

    Of the round's first pairs it is noted by how much the log-probabilities of trainer and rollout differ.
    """

    samples: int = option(4, at_least=2)  # one reply has none to be compared with
    pairs: str = option("best_worst", choices=("best_worst", "best_random", "margin", "top_k"))
    min_margin: float = option(0.0, at_least=0)
    top_k: int = option(2, at_least=1)
    offline_fraction: float = option(0.0, at_least=0, below=1)

    @property
    def round(self) -> RoundPlan:
        return replace(super().round, trained=2)

    def check_settings(self, config: DictConfig) -> None:
        super().check_settings(config)
        batch, fraction = config.global_batch_size, self.offline_fraction
        if fraction and not 0 < self.offline_groups(batch) < batch:
            raise UserError(
                f"algo.offline_fraction={fraction}: of global_batch_size={batch} that is {self.offline_groups(batch)} pairs of "
                f"the data and {batch - self.offline_groups(batch)} prompts; there must be one of each"
            )
        if fraction and self.reference_kind == "round":
            raise UserError(
                f"algo.offline_fraction={fraction} and algo.reference=round: the reference of the data's pairs is computed "
                "once, before training; use algo.reference=initial"
            )

    def unused(self, config: DictConfig) -> dict[str, str]:
        found = super().unused(config)
        if self.pairs != "top_k":
            found["top_k"] = f"algo.pairs={self.pairs} takes no top_k pairs"
        return found

    def offline_groups(self, batch: int) -> int:
        return round(self.offline_fraction * batch)

    def collect_offline(self, groups: list[Group], ctx: Context) -> list[Group]:
        """Pairs as they are, with their reference if the algorithm has one."""
        return groups if self.reference_kind == "none" else collect_reference(groups, ctx)

    def collect(self, groups: list[Group], ctx: Context) -> list[Group]:
        from psychocounsel.counsel.pairs import reward_pairs

        collected = []
        for group in groups:
            rewards = self.rewards(group, ctx)
            texts = [completion.ids.tobytes() for completion in group.completions]
            made = reward_pairs(rewards, texts, self.pairs, self.min_margin, self.top_k, ctx.rng)
            ctx.count("pairs", len(made.pairs))
            ctx.count("ties", made.ties)
            ctx.count("equal_replies", made.equal)
            ctx.count("too_close", made.too_close)
            collected += [group.pair(chosen, rejected) for chosen, rejected in made.pairs]
        collected = self.collect_offline(collected, ctx)
        self._compare(collected[: min(_COMPARED_PAIRS, 1 + len(collected) // 8)], ctx)
        return collected

    def _compare(self, groups: list[Group], ctx: Context) -> None:
        """Note by how much the trainer's log-probabilities differ from the rollout's; without groups there is nothing to say."""
        if not groups:
            return
        gaps = []
        for group, logprobs in zip(groups, ctx.logprobs("policy", groups), strict=True):
            for completion, now in zip(group.completions, logprobs, strict=True):
                assert completion.logprobs is not None
                gaps.append(now - completion.logprobs)
        note_differences(gaps, ctx)


def note_differences(gaps: Sequence[np.ndarray], ctx: Context) -> None:
    """Note mean and maximum over tokens of |log pi_trainer - log pi_rollout|, from these differences, float32[len] a reply."""
    import numpy as np

    every = np.abs(np.concatenate(gaps))
    ctx.note("logprob_difference_mean", float(every.mean()))
    ctx.note("logprob_difference_max", float(every.max()))
