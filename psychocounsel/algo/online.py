"""Base classes of online algorithms, which learn round by round from replies that the policy writes.

An online algorithm is one dataclass, in one of three ways:

- `class Mine(Online)` with its own `collect`, which turns the scored replies of a round into groups to train on, and
  its own `loss`;
- `class Mine(OnlinePairs, DPO)`: `OnlinePairs` collects preference pairs, and an algorithm that learns from pairs
  provides the loss. The online base comes first;
- `class Mine(ReplyAdvantages)` (`algo.policy_gradient`) with `advantages_of` and `loss`, as RLOO and GRPO do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from psychocounsel.algo.base import Algorithm, Context, Needs, RoundPlan
from psychocounsel.errors import UserError
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import numpy as np
    from omegaconf import DictConfig

    from psychocounsel.data.group import Completion, Group

# Maximum number of a round's pairs whose log-probabilities are compared (of a small round about an eighth). It is low
# because the comparison costs a forward pass and only feeds a metric.
_COMPARED_PAIRS = 32


@dataclass
class Rollouts(Algorithm):
    """Base of algorithms that learn from replies that the policy writes.

    In each round the policy writes `samples` replies to each of `prompts_per_round` prompts (default: one step's
    prompts). `collect` then builds groups from them, and training makes `passes` passes over these groups. A pass has
    one step for each `global_batch_size` prompts and spreads the groups evenly over its steps.
    """

    samples: int = option(4, at_least=1)
    prompts_per_round: int | None = option(None, at_least=1)
    passes: int = option(1, at_least=1)

    needs = Needs(data="prompts", rollouts=True)

    @property
    def round(self) -> RoundPlan:
        fewest = next(item.metadata.get("at_least", 1) for item in fields(self) if item.name == "samples")
        return RoundPlan(self.samples, self.prompts_per_round, self.passes, fewest=fewest)


@dataclass
class Online(Rollouts):
    """Base of algorithms that learn from the rewards of the policy's replies.

    A subclass defines `collect` and `loss`. It defines `needs` only if it needs more models than its bases together.

    Raises:
        UserError: if a subclass names an offline algorithm before an online base, whose `collect` it would hide.
    """

    length_penalty: float = option(0.0, at_least=0)
    unfinished_penalty: float = option(0.0, at_least=0)
    unfinished_ramp: float = option(0.0, at_least=0, at_most=1)
    repetition_penalty: float = option(0.0, at_least=0)
    client_left_penalty: float = option(0.0, at_least=0)
    out_of_room_penalty: float = option(0.0, at_least=0)
    rewritten_penalty: float = option(0.0, at_least=0)

    needs = Needs(data="prompts", rollouts=True, reward=True)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _check_order(cls)
        if "needs" not in vars(cls):
            bases = [base for base in cls.__bases__ if issubclass(base, Algorithm)]
            cls.needs = replace(Online.needs, models=frozenset().union(*(base.needs.models for base in bases)))

    def rewards(self, group: Group, ctx: Context) -> list[float]:
        """Return the reward of each reply of a group, less the penalties; log the mean of each penalty by its name.

        `length_penalty` applies per token. `unfinished_penalty` applies to a reply that was cut off; a finished reply that
        ends in the last `unfinished_ramp` of the allowed tokens gets a part of it, which rises linearly (arXiv 2503.14476,
        eq. 13). `repetition_penalty` is multiplied by the share of a reply's four-token runs that occurred earlier in it. The
        others apply to a session that ended in the way of their name (`SESSION_ENDS`).
        """
        from psychocounsel.data.group import SESSION_ENDS
        from psychocounsel.metrics.replies import repetition

        errors = []
        for reply in group.completions:
            terms = {
                "length_penalty": self.length_penalty * reply.trained_tokens,
                "unfinished_penalty": self.unfinished_penalty * self._excess(reply, ctx),
                "repetition_penalty": self.repetition_penalty * repetition(reply.trained_ids.tolist()),
            }
            for reason, end in SESSION_ENDS.items():
                terms[f"{end}_penalty"] = getattr(self, f"{end}_penalty") * (reply.finish_reason == reason)
            for name, penalty in terms.items():
                if getattr(self, name):
                    ctx.count(name, penalty / len(group.completions))
            errors.append((reply.reward or 0.0) - sum(terms.values()))
        return errors

    def _excess(self, reply: Completion, ctx: Context) -> float:
        """Return the share of `unfinished_penalty` that a reply gets, 0 to 1."""
        if reply.finish_reason == "length":
            return 1.0
        ramp = self.unfinished_ramp * ctx.max_tokens
        return max(0.0, (max(reply.turn_lengths) - ctx.max_tokens + ramp) / ramp) if ramp else 0.0

    def unused(self, config: DictConfig) -> dict[str, str]:
        unused = super().unused(config)
        if not self.unfinished_penalty:
            unused["unfinished_ramp"] = "algo.unfinished_penalty=0 subtracts nothing"
        if not config.rollout.clients:
            of_sessions = ("client_left_penalty", "out_of_room_penalty", "rewritten_penalty")
            unused |= dict.fromkeys(of_sessions, "without rollout.clients the policy holds no sessions")
        return unused


def _check_order(cls: type[Online]) -> None:
    """Check that offline algorithms come after all online bases."""
    bases = [base for base in cls.__mro__[1:] if issubclass(base, Algorithm) and base is not Algorithm]
    offline = next((place for place, base in enumerate(bases) if not issubclass(base, Rollouts)), len(bases))
    hidden = [base.__name__ for base in bases[offline:] if issubclass(base, Rollouts)]
    if hidden:
        wrong, right = (
            ", ".join(base.__name__ for base in order)
            for order in (cls.__bases__, sorted(cls.__bases__, key=lambda base: not issubclass(base, Online)))
        )
        raise UserError(
            f"class {cls.__name__}({wrong}): {bases[offline].__name__} hides how {hidden[0]} collects replies; write the "
            f"online base first: class {cls.__name__}({right})"
        )


@dataclass
class OnlinePairs(Online):
    """Builds preference pairs from the policy's replies by their rewards (iterative DPO, arXiv 2312.11456).

    `pairs` selects the pairs of a prompt: "best_worst", "best_random" (the best reply and a random other one), "margin"
    (all pairs whose rewards differ by at least `min_margin`), or "top_k" (the `top_k` pairs with the largest
    differences). In all cases a pair needs two different replies, different rewards, and a difference of at least
    `min_margin`.

    A fraction `offline_fraction` of each global batch, rounded to whole groups, is pairs of the dataset instead of
    prompts of the round. The reference of these pairs is the policy before training.

    For the first pairs of each round, the trainer's log-probabilities are computed, and their difference from the rollout's
    and the divergence from the reference are logged.
    """

    samples: int = option(4, at_least=2)  # a pair needs two replies
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
                f"algo.offline_fraction={fraction}: global_batch_size={batch} would hold {self.offline_groups(batch)} pairs of "
                f"the data and {batch - self.offline_groups(batch)} prompts; it needs at least one of each"
            )
        if fraction and self.reference_kind == "round":
            raise UserError(
                f"algo.offline_fraction={fraction} and algo.reference=round: the reference of the data's pairs is computed "
                "once, before training; use algo.reference=initial"
            )

    def unused(self, config: DictConfig) -> dict[str, str]:
        unused = super().unused(config)
        if self.pairs != "top_k":
            unused["top_k"] = f"algo.pairs={self.pairs} does not use top_k"
        return unused

    def offline_groups(self, batch: int) -> int:
        return round(self.offline_fraction * batch)

    def collect_offline(self, groups: list[Group], ctx: Context) -> list[Group]:
        """Return the pairs unchanged, with reference log-probabilities if the algorithm has a reference."""
        return self.collect_reference(groups, ctx)

    def collect(self, groups: list[Group], ctx: Context) -> list[Group]:
        from psychocounsel.counsel.pairs import reward_pairs

        collected = []
        for group in groups:
            rewards = self.rewards(group, ctx)
            texts = [completion.ids.tobytes() for completion in group.completions]
            selection = reward_pairs(rewards, texts, self.pairs, self.min_margin, self.top_k, ctx.rng)
            ctx.count("pairs", len(selection.pairs))
            ctx.count("ties", selection.ties)
            ctx.count("equal_replies", selection.equal)
            ctx.count("too_close", selection.too_close)
            collected += [group.pair(chosen, rejected) for chosen, rejected in selection.pairs]
        collected = self.collect_offline(collected, ctx)
        self._compare(collected[: min(_COMPARED_PAIRS, 1 + len(collected) // 8)], ctx)
        return collected

    def _compare(self, groups: list[Group], ctx: Context) -> None:
        """Note the differences between the log-probabilities of trainer and rollout, and log(pi / ref) summed over a reply.

        Without groups, nothing is noted.
        """
        if not groups:
            return
        gaps, divergences = [], []
        for group, logprobs in zip(groups, ctx.logprobs("policy", groups), strict=True):
            for completion, now in zip(group.completions, logprobs, strict=True):
                assert completion.logprobs is not None
                gaps.append(now - completion.logprobs)
                if completion.ref_logprobs is not None:
                    divergences.append(float((now - completion.ref_logprobs).sum()))
        note_differences(gaps, ctx)
        if divergences:
            ctx.note("kl", sum(divergences) / len(divergences))


def note_differences(gaps: Sequence[np.ndarray], ctx: Context) -> None:
    """Note the mean and maximum of |log pi_trainer - log pi_rollout| over tokens, and their mean `k3` [nats].

    The last estimates KL(rollout || trainer), because the rollout drew the tokens.

    `gaps`: the signed differences, float32[len] for each reply.
    """
    import numpy as np

    signed = np.concatenate(gaps)
    every, wide = np.abs(signed), signed.astype(np.float64)
    ctx.note("mismatch_kl", float((np.expm1(wide) - wide).mean()))
    ctx.note("logprob_difference_mean", float(every.mean()))
    ctx.note("logprob_difference_max", float(every.max()))
