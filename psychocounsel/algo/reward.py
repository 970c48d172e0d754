"""Reward modelling: learns from pairs to score replies, or from ratings to rate them on each principle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psychocounsel.algo.base import Algorithm, Needs, Outputs, Term
from psychocounsel.algo.pair_terms import PAIR_FIGURES, pair_term, reward_metrics, soft_losses
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.errors import UserError
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import numpy as np
    import torch
    from omegaconf import DictConfig

    from psychocounsel.data.batch import Batch
    from psychocounsel.data.group import Group


@dataclass
class Reward(Algorithm):
    """Reward model of one score, learned from pairs, or (`heads=principles`) of seven scores, learned from ratings.

    One score: the loss of a pair is -log s(r_chosen - r_rejected - margin * gap) (Bradley-Terry). s is the logistic
    sigmoid, r the score at a reply's last token, and gap the difference of the two mean ratings, so clearer preferences
    require a larger score difference (arXiv 2307.09288, eq. 2). `centring` adds centring * (r_chosen + r_rejected)^2,
    which keeps scores around zero (arXiv 2312.09244). With `data.soft_labels` the chosen reply is preferred with
    probability p, and the loss is -p log s(m) - (1-p) log s(-m), m = r_chosen - r_rejected.

    Seven scores: the loss of a reply is the mean over its rated principles k of (r_k - rating_k)^2; principles that are
    not applicable are left out. This is regression (arXiv 2406.08673): its scores are on the raters' scale, which limits
    (safety >= 4) and weights of principles need. A Bradley-Terry loss fixes differences of scores only, and learns
    nothing from equal ratings. A principle that no training row rates (`unrated`) has a constant score, and weight 0 in the
    reward.
    """

    heads: str | None = option(None, choices=(None, "principles"))
    margin: float = option(0.0, at_least=0)
    centring: float = option(0.0, at_least=0)

    needs = Needs(models=frozenset({"reward_model"}), data="pairs", weights=True, soft_labels=True)

    def __post_init__(self) -> None:
        self._unrated = tuple[str, ...]()

    @property
    def score_names(self) -> tuple[str, ...]:
        return PRINCIPLES if self.heads else ()

    @property
    def unrated(self) -> tuple[str, ...]:
        return self._unrated

    def check_settings(self, config: DictConfig) -> None:
        super().check_settings(config)
        if self.margin and config.data.soft_labels:
            raise UserError(
                f"data.soft_labels=true and algo.margin={self.margin:g}: a margin assumes certain labels; remove one of "
                "the two settings"
            )
        for key in ("soft_labels", "controls"):
            if self.heads and config.data[key]:
                raise UserError(
                    f"algo.heads={self.heads} learns from ratings, and data.{key} gives none: leave out data.{key}, or use "
                    "algo.heads=null"
                )
        lora = config.model.lora
        if self.heads and lora.rank and not lora.merge:
            raise UserError(
                f"algo.heads={self.heads}: an adapter's folder does not name its scores: add model.lora.merge=true"
            )

    def unused(self, config: DictConfig) -> dict[str, str]:
        of_pairs = dict.fromkeys(("margin", "centring"), f"algo.heads={self.heads} learns from ratings, not from pairs")
        return super().unused(config) | (of_pairs if self.heads else {})

    def check(self, train: list[Group], held_out: list[Group]) -> None:
        import numpy as np

        replies = [completion for group in (*train, *held_out) for completion in group.completions]
        key = f"algo.heads={self.heads}" if self.heads else f"algo.margin={self.margin}"
        is_lacking = any(
            (reply.ratings is None or np.isnan(reply.ratings).all()) if self.heads else reply.reward is None
            for reply in replies
        )
        if (self.heads or self.margin) and is_lacking:
            off = "algo.heads=null" if self.heads else "algo.margin=0"
            raise UserError(f"{key}: rows lack ratings (chosen_empathy_rating, ...): use {off} or rated data")
        if self.heads:
            ratings = np.array([reply.ratings for group in train for reply in group.completions])
            rated = np.isfinite(ratings).any(0)
            self._unrated = tuple(name for name, known in zip(PRINCIPLES, rated, strict=True) if not known)

    @property
    def _rated(self) -> list[int]:
        """The columns of the principles that some training row rates."""
        return [column for column, name in enumerate(PRINCIPLES) if name not in self._unrated]

    def figure_names(self) -> tuple[str, ...]:
        intervals = (f"{name}{end}" for name in ("accuracy", "auc", "ece", "brier") for end in ("", "_low", "_high"))
        terms = ("loss_preference", "loss_centring") if self.centring else ()
        by_principle = (f"{figure}_{name}" for name in self.score_names for figure in ("accuracy", "error"))
        return (*dict.fromkeys((*PAIR_FIGURES, *terms, *intervals)), "reward_mean", "reward_std", *by_principle)

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """Return the loss, averaged over pairs or rated replies, and metrics of the scores.

        `outputs.scores`: float32[C], or float32[C, 7]; metrics are then those of the mean over the rated principles.
        """
        from torch.nn.functional import logsigmoid

        assert outputs.scores is not None
        if self.heads:
            return {"loss_ratings": _rating_term(outputs.scores, batch)} | reward_metrics(
                *batch.pairs(outputs.scores[:, self._rated].mean(1))
            )
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

        The intervals are over clusters of prompts that share replies. With `heads`, these figures are those
        of the mean over the scores of rated principles. Each principle has its accuracy on the pairs that differ in its
        rating, and its `error`, the root mean square of score - rating.
        """
        import numpy as np

        from psychocounsel.data.shared_text import components_of_groups
        from psychocounsel.metrics.rewards import pair_metrics, reward_statistics

        clusters = components_of_groups(groups).tolist()
        single = [row[:, self._rated].mean(1) for row in scores] if self.heads else scores
        metrics = pair_metrics([float(pair[0]) for pair in single], [float(pair[1]) for pair in single], clusters)
        if self.heads:
            ratings = [[completion.ratings for completion in group.completions] for group in groups]
            metrics |= _by_principle(np.stack(scores).astype(np.float64), np.array(ratings, np.float64))
        return metrics | reward_statistics(single)


def _rating_term(scores: torch.Tensor, batch: Batch) -> Term:
    """Return the squared error averaged over replies, each with its pair's weight. `scores`: float32[C, 7]."""
    known = batch.ratings.isfinite()
    squares = (scores - batch.ratings.nan_to_num()).square() * known
    losses = squares.sum(1) / known.sum(1) * batch.pair_weights.repeat_interleave(2)
    return Term(losses.sum(), "completions", 1.0, "reward_model", losses)


def _by_principle(scores: np.ndarray, ratings: np.ndarray) -> dict[str, float]:
    """Return `accuracy_NAME` and `error_NAME` of each principle that has the ratings for it; float64[P, 2, 7] each."""
    import numpy as np

    from psychocounsel.metrics.rewards import accuracy

    figures: dict[str, float] = {}
    gaps = ratings[:, 0] - ratings[:, 1]
    signed = (scores[:, 0] - scores[:, 1]) * np.sign(gaps)
    for column, name in enumerate(PRINCIPLES):
        differ = np.nan_to_num(gaps[:, column]) != 0
        errors = scores[..., column] - ratings[..., column]
        if differ.any():
            figures[f"accuracy_{name}"] = accuracy(signed[differ, column])
        if np.isfinite(errors).any():
            figures[f"error_{name}"] = float(np.sqrt(np.nanmean(errors**2)))
    return figures
