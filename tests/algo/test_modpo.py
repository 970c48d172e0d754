"""MODPO against its formula, computed by hand: ratings of other principles shift the margin that a pair asks for."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from psychocounsel.algo.base import Outputs
from psychocounsel.algo.dpo import DPO
from psychocounsel.algo.modpo import MODPO
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.batch import build_batch
from psychocounsel.data.group import Group
from psychocounsel.errors import UserError
from tests.support.composed import check, compose
from tests.support.harness import random_groups

RATINGS = np.random.default_rng(3).integers(1, 6, (8, 7)).astype(np.float32)


def rated() -> list[Group]:
    groups = random_groups(4, longest=20)
    for reply, ratings in zip((reply for group in groups for reply in group.completions), RATINGS, strict=True):
        reply.ratings = ratings
        reply.ref_logprobs = np.random.default_rng(len(reply.ids)).normal(-2, 1, len(reply.ids)).astype(np.float32)
    return groups


def loss_of(algorithm: MODPO | DPO, groups: list[Group]) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Return the summed loss, its gradient by the policy's log-probabilities, and h of each pair."""
    batch = build_batch([groups])
    logprobs = torch.linspace(-4, -1, len(batch.ref_logprobs)).requires_grad_()
    term = algorithm.loss(Outputs(logprobs=logprobs), batch)["loss_preference"]
    term.sum.backward()
    ratios = (logprobs.detach() - batch.ref_logprobs).numpy()
    ends = np.cumsum([len(reply.ids) for group in groups for reply in group.completions])
    sums = np.array([part.sum() for part in np.split(ratios, ends[:-1])])
    assert logprobs.grad is not None
    return term.sum.detach(), logprobs.grad, sums[::2] - sums[1::2]


def test_the_loss_is_the_papers_by_hand() -> None:
    weights = {"safety": 0.3, "empathy": 0.2}
    found, _, ratios = loss_of(MODPO(beta=0.5, weights=weights), rated())
    gaps = sum(weight * (RATINGS[::2] - RATINGS[1::2])[:, PRINCIPLES.index(name)] for name, weight in weights.items())
    expected = np.logaddexp(0, -(0.5 * ratios - gaps) / 0.5).sum()  # -log s(x) = log(1 + exp(-x))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_without_weights_it_is_dpo() -> None:
    (loss, gradient, _), (dpo, of_dpo, _) = loss_of(MODPO(weights={}), rated()), loss_of(DPO(), rated())
    torch.testing.assert_close(loss, dpo)
    torch.testing.assert_close(gradient, of_dpo)


def test_a_safer_rejected_reply_weakens_the_push_and_a_safer_chosen_one_strengthens_it() -> None:
    def push(chosen: float, rejected: float) -> float:
        [group, *_] = rated()
        for reply, safety in zip(group.completions, (chosen, rejected), strict=True):
            reply.ratings = np.full(7, safety, np.float32)
        return float(loss_of(MODPO(weights={"safety": 0.5}), [group])[1].abs().sum())

    assert push(1, 5) < push(3, 3) < push(5, 1)


def test_data_without_the_ratings_and_weights_that_cannot_be_are_refused() -> None:
    groups = rated()
    groups[2].completions[1].ratings = np.where(np.array(PRINCIPLES) == "safety", np.nan, 3).astype(np.float32)
    with pytest.raises(UserError, match="a row lacks ratings of safety .*psychocounsel annotate"):
        MODPO().check(groups, [])
    MODPO(weights={"clarity": 0.5}).check(groups, [])
    with pytest.raises(UserError, match="a row lacks ratings"):
        MODPO().check([], [replace(groups[0], completions=[replace(groups[0].completions[0], ratings=None)])])
    with pytest.raises(UserError, match="data.controls and algo=modpo: controls have no ratings"):
        check(compose(["algo=modpo", "data.controls=[echo]"]))
    for given, why in (
        ("{safty: 0.3}", "algo.weights.safty: no such principle; did you mean safety"),
        ("{safety: 1}", "algo.weights: add up to 1, .*give less than 1"),
        ("{safety: -0.1}", "algo.weights.safety=-0.1: must be at least 0"),
    ):
        with pytest.raises(UserError, match=why):
            check(compose(["algo=modpo", f"algo.weights={given}"]))
