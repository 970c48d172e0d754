"""What algorithms share that learn from replies of the policy itself, round by round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psychocounsel.algo.base import Context, collect_reference
from psychocounsel.schema import option

if TYPE_CHECKING:
    from psychocounsel.data.group import Group


@dataclass
class Online:
    """Fields of every such algorithm.

    A round takes `prompts_per_round` prompts (by default those of a step), writes `samples` replies to each at
    `temperature`, scores them, and trains `passes` times over what is collected of them, in steps of `global_batch_size`
    prompts.
    """

    samples: int = option(4, at_least=1)
    temperature: float = option(1.0, above=0)
    prompts_per_round: int | None = option(None, at_least=1)
    passes: int = option(1, at_least=1)
    length_penalty: float = option(0.0, at_least=0)
    unfinished_penalty: float = option(0.0, at_least=0)
    repetition_penalty: float = option(0.0, at_least=0)

    def rewards(self, group: Group, ctx: Context) -> list[float]:
        """What the replies of a group count: their rewards less the penalties, whose sum is counted.

        `length_penalty` is per token, `unfinished_penalty` for a reply that was cut, `repetition_penalty` times the share of
        runs of four tokens that a reply has before.
        """
        from psychocounsel.evaluation.replies import repetition

        found = []
        for reply in group.completions:
            penalty = self.length_penalty * len(reply.ids)
            penalty += self.unfinished_penalty * (reply.finish_reason == "length")
            penalty += self.repetition_penalty * repetition(reply.ids.tolist())
            ctx.count("penalty", penalty / len(group.completions))
            found.append((reply.reward or 0.0) - penalty)
        return found


@dataclass
class OnlinePairs(Online):
    """Collects preference pairs of the replies by their rewards (arXiv 2312.11456, iterative DPO).

    `pairs`: "best_worst", "best_random" (the best against any other), "margin" (all that differ by `min_margin`), or
    "top_k" (the `top_k` of them that differ most). In any case a pair needs two different replies, different rewards, and
    a difference of at least `min_margin`.
    """

    pairs: str = option("best_worst", choices=("best_worst", "best_random", "margin", "top_k"))
    min_margin: float = option(0.0, at_least=0)
    top_k: int = option(2, at_least=1)

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
        return collect_reference(collected, ctx)
