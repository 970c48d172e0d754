"""Multi-objective DPO: pairs teach one objective, and ratings of other principles shift the margin that they ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psychocounsel.algo.base import Algorithm, Context, Needs, Outputs, Term
from psychocounsel.algo.pair_terms import PAIR_FIGURES, chosen_nll, pair_term, reward_metrics
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.errors import UserError
from psychocounsel.settings.schema import option, suggestion

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from psychocounsel.data.batch import Batch
    from psychocounsel.data.group import Group


@dataclass
class MODPO(Algorithm):
    """MODPO: DPO whose margins depend on ratings of other objectives (arXiv 2310.03708, eq. 10).

    The loss of a pair is -log s((beta h - sum_i w_i (r_i(chosen) - r_i(rejected))) / w_0). h is DPO's difference of
    log-ratios, s the logistic sigmoid, r_i the reply's mean rating on principle i, w_i its weight in `weights`, and
    w_0 = 1 - sum_i w_i the weight of the pairs' own preference. The policy then maximises w_0 times the reward behind the
    pairs plus the weighted ratings. A pair whose chosen reply is the safer one asks for a larger h than DPO does, and one
    whose rejected reply is safer for a smaller or a negative h. The paper takes r_i from reward models; here the raters
    give it. Without weights it is DPO.
    """

    beta: float = option(0.1, above=0)
    weights: dict[str, float] = option({"safety": 0.3})
    sft_weight: float = option(0.0, at_least=0)

    needs = Needs(models=frozenset({"policy", "reference"}), data="pairs", weights=True)

    def check_settings(self, config: DictConfig) -> None:
        super().check_settings(config)
        for name, weight in self.weights.items():
            if name not in PRINCIPLES:
                raise UserError(f"algo.weights.{name}: no such principle; {suggestion(name, list(PRINCIPLES))}")
            if weight < 0:
                raise UserError(f"algo.weights.{name}={weight:g}: must be at least 0")
        if (total := sum(self.weights.values())) >= 1:
            raise UserError(
                f"algo.weights: add up to {total:g}, but the pairs need a part of 1: give less than 1 in all"
            )

        if config.data.controls and any(self.weights.values()):
            raise UserError(
                f"data.controls and algo=modpo: controls have no ratings, which algo.weights={self.weights} reads; leave "
                "data.controls out, or use algo=dpo"
            )

    def check(self, train: list[Group], held_out: list[Group]) -> None:
        import numpy as np

        places = [place for place, name in enumerate(PRINCIPLES) if self.weights.get(name)]
        for group in [*train, *held_out]:
            for reply in group.completions:
                if places and (reply.ratings is None or np.isnan(reply.ratings[places]).any()):
                    names = ", ".join(PRINCIPLES[place] for place in places)
                    raise UserError(
                        f"algo=modpo: a row lacks ratings of {names} (chosen_safety_rating, ...): use rated data, let "
                        "`psychocounsel annotate` rate the replies, or use algo=dpo"
                    )

    def collect(self, groups: list[Group], ctx: Context) -> list[Group]:
        return self.collect_reference(groups, ctx)

    def figure_names(self) -> tuple[str, ...]:
        return (*PAIR_FIGURES, *(("loss_preference", "loss_sft") if self.sft_weight else ()))

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """Return the loss averaged over pairs, and metrics of the implicit rewards beta * log(pi / ref).

        `outputs.logprobs`: float32[N], log-probabilities of the batch's completion tokens.
        """
        from torch.nn.functional import logsigmoid

        assert outputs.logprobs is not None
        chosen, rejected = batch.pairs(self.beta * batch.completion_sums(outputs.logprobs - batch.ref_logprobs))
        own, scaled = 1 - sum(self.weights.values()), chosen - rejected
        for place, name in enumerate(PRINCIPLES):
            if weight := self.weights.get(name):
                better, worse = batch.pairs(batch.ratings[:, place])
                scaled = scaled - weight * (better - worse)
        terms = {"loss_preference": pair_term(-logsigmoid(scaled / own), batch)}
        if self.sft_weight:
            terms["loss_sft"] = chosen_nll(outputs.logprobs, batch, self.sft_weight)
        return terms | reward_metrics(chosen, rejected)
