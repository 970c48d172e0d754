"""Reward modelling: learns from pairs to score replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psychocounsel.algo.base import Algorithm, Needs, Outputs, Term
from psychocounsel.algo.pair_terms import PAIR_FIGURES, pair_term, reward_metrics, soft_losses
from psychocounsel.errors import UserError
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import numpy as np
    from omegaconf import DictConfig

    from psychocounsel.data.batch import Batch
    from psychocounsel.data.group import Group


@dataclass
class Reward(Algorithm):
    """Bradley-Terry reward model: learns to score the chosen reply higher than the rejected one.

    The loss of a pair is -log s(r_chosen - r_rejected - margin * gap). s is the logistic sigmoid, r the score at a
    reply's last token, and gap the difference of the two mean ratings, so clearer preferences require a larger score
    difference (arXiv 2307.09288, eq. 2). `centring` adds centring * (r_chosen + r_rejected)^2, which keeps scores
    around zero (arXiv 2312.09244). With `data.soft_labels` the chosen reply is preferred with probability p, and the
    loss is -p log s(m) - (1-p) log s(-m), m = r_chosen - r_rejected.
    """

    margin: float = option(0.0, at_least=0)
    centring: float = option(0.0, at_least=0)

    needs = Needs(models=frozenset({"reward_model"}), data="pairs", weights=True, soft_labels=True)

    def check_settings(self, config: DictConfig) -> None:
        super().check_settings(config)
        if self.margin and config.data.soft_labels:
            raise UserError(
                f"data.soft_labels=true and algo.margin={self.margin:g}: a margin assumes certain labels; remove one of "
                "the two settings"
            )

    def check(self, train: list[Group], held_out: list[Group]) -> None:
        replies = [completion for group in (*train, *held_out) for completion in group.completions]
        if self.margin and any(reply.reward is None for reply in replies):
            raise UserError(
                f"algo.margin={self.margin}: rows lack ratings (chosen_empathy_rating, ...): use algo.margin=0 or rated data"
            )

    def figure_names(self) -> tuple[str, ...]:
        intervals = (f"{name}{end}" for name in ("accuracy", "auc", "ece", "brier") for end in ("", "_low", "_high"))
        terms = ("loss_preference", "loss_centring") if self.centring else ()
        return (*dict.fromkeys((*PAIR_FIGURES, *terms, *intervals)), "reward_mean", "reward_std")

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """Return the loss averaged over pairs, and metrics of the scores; `outputs.scores`: float32[C]."""
        from torch.nn.functional import logsigmoid

        assert outputs.scores is not None
        chosen, rejected = batch.pairs(outputs.scores)
        margin = chosen - rejected
        if self.margin:
            better, worse = batch.pairs(batch.rewards)
            margin = margin - self.margin * (better - worse)
        soft = batch.pair_probabilities
        losses = -logsigmoid(margin) if soft is None else soft_losses(margin, soft)
        terms = {"loss_preference": pair_term(losses, batch, engine="reward_model")}
        if self.centring:
            squares = (chosen + rejected) ** 2
            terms["loss_centring"] = pair_term(squares, batch, self.centring, "reward_model")
        return terms | reward_metrics(chosen, rejected)

    def evaluation(self, groups: list[Group], scores: list[np.ndarray]) -> dict[str, float]:
        """Return AUC, ECE, Brier score and accuracy with 95 % intervals, and the mean and standard deviation of rewards.

        The intervals come from resampling clusters of prompts that share replies.
        """
        from psychocounsel.data.shared_text import components_of_groups
        from psychocounsel.metrics.rewards import pair_metrics, reward_statistics

        clusters = components_of_groups(groups).tolist()
        metrics = pair_metrics([float(pair[0]) for pair in scores], [float(pair[1]) for pair in scores], clusters)
        return metrics | reward_statistics(scores)
