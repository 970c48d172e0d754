"""Direct preference optimization (DPO) and its variants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psychocounsel.algo.base import Algorithm, Context, Needs, Outputs, Term
from psychocounsel.algo.pair_terms import PAIR_FIGURES, chosen_nll, pair_term, reward_metrics, soft_losses
from psychocounsel.errors import UserError
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import torch
    from omegaconf import DictConfig

    from psychocounsel.data.batch import Batch
    from psychocounsel.data.group import Group


@dataclass
class DPO(Algorithm):
    """DPO and the IPO, hinge and robust losses: raise the chosen reply's likelihood ratio above the rejected one's.

    A reply's implicit reward is beta * log(pi / ref), so the policy learns preferences without a reward model, while
    the reference keeps it from drifting (arXiv 2305.18290, eq. 7). s is the logistic sigmoid, and h the difference of
    the log-ratios, each summed over the reply's tokens: h = log(pi(chosen) / ref(chosen)) - log(pi(rejected) /
    ref(rejected)). `loss_type` selects the loss of a pair:
        sigmoid  -(1-e) log s(beta h) - e log s(-beta h), e = label_smoothing (conservative DPO)
        robust   ((1-e) (-log s(beta h)) - e (-log s(-beta h))) / (1 - 2e)      (arXiv 2403.00409)
        hinge    max(0, 1 - beta h)                                             (arXiv 2309.06657, hinge-norm)
        ipo      (h_mean - 1/(2 beta))^2 with per-token means                   (arXiv 2310.12036, eq. 17)
    With `data.soft_labels` the chosen reply is preferred with probability p, and the loss is the expectation over p:
        sigmoid  -p log s(beta h) - (1-p) log s(-beta h)
        ipo      (h_mean - (2p-1)/(2 beta))^2, which differs from the expectation of eq. 17 by a constant

    `length_normalised` uses per-token means of the log-ratios in the other losses too. `sft_weight` adds the mean
    negative log-likelihood per token of the chosen replies, because the policy could otherwise start to loop or stop
    ending replies.
    """

    beta: float = option(0.1, above=0)
    loss_type: str = option("sigmoid", choices=("sigmoid", "robust", "hinge", "ipo"))
    label_smoothing: float = option(0.0, at_least=0, below=0.5)
    length_normalised: bool = False
    sft_weight: float = option(0.0, at_least=0)

    needs = Needs(models=frozenset({"policy", "reference"}), data="pairs", weights=True, soft_labels=True)

    def check_settings(self, config: DictConfig) -> None:
        super().check_settings(config)
        if not config.data.soft_labels:
            return
        if self.loss_type not in ("sigmoid", "ipo"):
            raise UserError(
                f"data.soft_labels=true and algo.loss_type={self.loss_type}: only sigmoid and ipo use soft labels; use one of "
                "them, or leave data.soft_labels out"
            )
        if self.label_smoothing:
            raise UserError(
                f"data.soft_labels=true and algo.label_smoothing={self.label_smoothing:g}: soft labels already say how sure each "
                "label is; remove one of the two settings"
            )

    def unused(self, config: DictConfig) -> dict[str, str]:
        unused = super().unused(config)
        if self.loss_type not in ("sigmoid", "robust"):
            unused["label_smoothing"] = (
                f"algo.loss_type={self.loss_type} does not use label smoothing (sigmoid and robust do)"
            )
        if self.loss_type == "ipo":
            unused["length_normalised"] = "algo.loss_type=ipo always uses per-token means"
        return unused

    def collect(self, groups: list[Group], ctx: Context) -> list[Group]:
        return self.collect_reference(groups, ctx)

    def figure_names(self) -> tuple[str, ...]:
        return (*PAIR_FIGURES, *(("loss_preference", "loss_sft") if self.sft_weight else ()))

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """Return the loss averaged over pairs, and metrics of the implicit rewards beta * log(pi / ref).

        The rewards use the same sums or per-token means as the loss. A tie counts half in the accuracy. `sft_weight`
        adds the term `loss_sft`, averaged over the tokens of the chosen replies. `outputs.logprobs`: float32[N],
        log-probabilities of the batch's completion tokens.
        """
        assert outputs.logprobs is not None
        ratios = batch.completion_sums(outputs.logprobs - batch.ref_logprobs)
        if self.length_normalised or self.loss_type == "ipo":
            ratios = ratios / batch.completion_lengths
        chosen, rejected = batch.pairs(ratios)
        margin = chosen - rejected
        terms = {"loss_preference": pair_term(self.pair_losses(margin, batch.pair_probabilities), batch)}
        if self.sft_weight:
            terms["loss_sft"] = chosen_nll(outputs.logprobs, batch, self.sft_weight)
        return terms | reward_metrics(self.beta * chosen, self.beta * rejected)

    def pair_losses(self, margin: torch.Tensor, probabilities: torch.Tensor | None = None) -> torch.Tensor:
        """Return the loss of each pair, float[P].

        Args:
            margin: float[P], the difference h of log-ratios (chosen minus rejected); for ipo h_mean.
            probabilities: float[P], soft labels p; None for hard labels.
        """
        import torch
        from torch.nn.functional import logsigmoid

        scaled, smoothing = self.beta * margin, self.label_smoothing
        if self.loss_type == "hinge":
            return torch.relu(1 - scaled)
        if self.loss_type == "ipo":
            target = 1 / (2 * self.beta)
            return (margin - (target if probabilities is None else (2 * probabilities - 1) * target)) ** 2
        if self.loss_type == "robust":
            flipped = smoothing * logsigmoid(-scaled) - (1 - smoothing) * logsigmoid(scaled)
            return flipped / (1 - 2 * smoothing)
        if probabilities is not None:
            return soft_losses(scaled, probabilities)
        return -(1 - smoothing) * logsigmoid(scaled) - smoothing * logsigmoid(-scaled)
