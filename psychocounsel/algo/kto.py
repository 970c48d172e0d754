"""Kahneman-Tversky optimization (KTO): learns from single replies labelled good or bad."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psychocounsel.algo.base import Algorithm, Context, Needs, Outputs, Term
from psychocounsel.errors import UserError
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    from psychocounsel.data.batch import Batch
    from psychocounsel.data.group import Group


@dataclass
class KTO(Algorithm):
    """KTO: raise the likelihood ratio of good replies and lower that of bad ones (arXiv 2402.01306, eq. 8).

    KTO trains on labelled replies, or on pairs, whose chosen reply counts as good and whose rejected one as bad. Like
    people in prospect theory, KTO judges gains and losses against a reference point z. s is the logistic sigmoid, h =
    log(pi / ref) of a reply, summed over its tokens, and z = max(0, mean h of mismatched replies), an estimate of the
    KL divergence between policy and reference. The loss of a reply:
        good reply  desirable_weight   * (1 - s(beta (h - z)))
        bad reply   undesirable_weight * (1 - s(beta (z - h)))

    The mismatched replies of a prompt are the replies to the next different prompt of the data. z is computed over the
    global batch, before its loss and without gradient, so the split into micro-batches and ranks does not matter.
    Held-out rows are evaluated in batches of `global_batch_size`, each with its own z.
    """

    beta: float = option(0.1, above=0)
    desirable_weight: float = option(1.0, above=0)
    undesirable_weight: float = option(1.0, above=0)

    _strangers = dict[bytes, "Group"]()  # `check` sets them

    needs = Needs(models=frozenset({"policy", "reference"}), data="labelled")

    def check(self, train: list[Group], held_out: list[Group]) -> None:
        for part, groups in {"training": train, "held-out": held_out}.items():
            if groups and len({group.prompt_ids.tobytes() for group in groups}) < 2:
                more = (
                    "more rows (data.limit)"
                    if part == "training"
                    else "a larger eval.limit or data.dev_fraction, or data.eval_path"
                )
                needs = "need two different prompts, because KTO compares replies across prompts"
                raise UserError(f"algo=kto: the {part} rows {needs}; use {more}")
        labels = {completion.label for group in train for completion in group.completions}
        if len(labels) < 2:
            kind = "good" if True in labels else "bad"
            raise UserError(f"algo=kto: all training rows are labelled {kind}; KTO needs both good and bad ones")
        self._strangers = _strangers(train) | _strangers(held_out)

    def collect(self, groups: list[Group], ctx: Context) -> list[Group]:
        """Append mismatched replies, which have no label, to each group, and fill `ref_logprobs` of all replies."""
        # those of all rows count, so that a longer run keeps the strangers of a shorter one
        strangers = _strangers(groups) | self._strangers
        others = [_mismatched(group, strangers[group.prompt_ids.tobytes()]) for group in groups]
        mismatched = self.collect_reference(others, ctx)
        return [
            replace(group, completions=[*group.completions, *other.completions])
            for group, other in zip(self.collect_reference(groups, ctx), mismatched, strict=True)
        ]

    def batch_groups(self, groups: list[Group], ctx: Context) -> list[Group]:
        """Compute z of this batch from its mismatched replies, and return the groups without these replies."""
        mismatched = [_labelled(group, False) for group in groups]
        ratios = [
            float((values - completion.ref_logprobs).sum())
            for group, logprobs in zip(mismatched, ctx.logprobs("policy", mismatched), strict=True)
            for completion, values in zip(group.completions, logprobs, strict=True)
        ]
        mean = sum(ratios) / len(ratios)
        self._kl = 0.0 if mean < 0 else mean  # max() could hide a NaN, which must stop the run
        return [_labelled(group, True) for group in groups]

    def figure_names(self) -> tuple[str, ...]:
        return ("loss", "accuracy", "margin", "reference_point")

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """Return the loss averaged over completions, with the metrics `rewards/accuracy`, `rewards/margin` and `reference_point`.

        A reply's margin is beta (h - z) if it is good and beta (z - h) if it is bad; the accuracy is the share of
        positive margins (a tie counts half), and `reference_point` is z. `outputs.logprobs`: float32[N], log-probabilities of the
        batch's completion tokens.
        """
        import torch

        assert outputs.logprobs is not None
        ratios = batch.completion_sums(outputs.logprobs - batch.ref_logprobs)
        sign = 2 * batch.labels - 1
        weight = torch.where(sign > 0, self.desirable_weight, self.undesirable_weight)
        losses = weight * (1 - torch.sigmoid(self.beta * sign * (ratios - self._kl)))
        margin = self.beta * sign * (ratios.detach() - self._kl)
        wins = (margin > 0).float() + 0.5 * (margin == 0).float()
        return {
            "loss_preference": Term(losses.sum(), "completions", summands=losses),
            "rewards/accuracy": Term(wins.sum(), "completions", 0.0, summands=wins),
            "rewards/margin": Term(margin.sum(), "completions", 0.0, summands=margin),
            "reference_point": Term(torch.full_like(margin, self._kl).sum(), "completions", 0.0),
        }


def _strangers(groups: list[Group]) -> dict[bytes, Group]:
    """Return, for each prompt, the first group with the next different prompt; the first prompt follows the last."""
    first = dict[bytes, "Group"]()
    for group in groups:
        first.setdefault(group.prompt_ids.tobytes(), group)
    return dict(zip(first, [*first.values()][1:] + [*first.values()][:1], strict=True))


def _mismatched(group: Group, stranger: Group) -> Group:
    """Return the group's prompt with the replies of `stranger`.

    The replies are cut so that no sequence is longer than the longest one of the two groups.
    """
    if stranger.prompt_ids.tobytes() == group.prompt_ids.tobytes():
        raise UserError(
            "algo=kto: this run trains on one prompt only, and KTO compares replies across prompts; add rows"
        )
    room = max(len(source.prompt_ids) + len(reply.ids) for source in (group, stranger) for reply in source.completions)
    replies = [replace(reply.cut(max(1, room - len(group.prompt_ids))), label=None) for reply in stranger.completions]
    return replace(group, completions=replies)


def _labelled(group: Group, labelled: bool) -> Group:
    return replace(group, completions=[reply for reply in group.completions if (reply.label is not None) == labelled])
