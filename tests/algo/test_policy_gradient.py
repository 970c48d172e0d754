"""RLOO and GRPO against their formulas, one reply at a time, and the options that they share with PPO."""

import dataclasses
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from psychocounsel.algo.base import Outputs
from psychocounsel.algo.grpo import GRPO
from psychocounsel.algo.policy_gradient import ReplyAdvantages, k3, kl_losses
from psychocounsel.algo.ppo import PPO
from psychocounsel.algo.rloo import RLOO
from psychocounsel.data.batch import build_batch
from psychocounsel.data.group import Completion, Group
from psychocounsel.errors import UserError
from psychocounsel.rundir.identity import differing, identity
from psychocounsel.settings.targets import build
from tests.support.composed import check, compose
from tests.support.harness import make_stepper, random_groups, small_lm

LENGTHS = [(5, 3, 7), (2, 4, 1), (6, 6, 2)]


class Context:
    """Context for `collect` that answers from tables, records notes, and has the previous round's notes."""

    def __init__(self, tables: dict[str, list[list[np.ndarray]]], earlier: dict[str, float] | None = None) -> None:
        self.tables, self.before = tables, earlier
        self.rng, self.max_tokens, self.turns = np.random.default_rng(0), 20, 1
        self.round, self.notes, self.peaks = int(earlier is not None), dict[str, float](), dict[str, float]()

    def count(self, name: str, number: float) -> None:
        self.notes[name] = self.notes.get(name, 0.0) + number

    def note(self, name: str, value: float) -> None:
        self.notes[name] = value

    def earlier(self, name: str) -> float | None:
        return None if self.before is None else self.before[name]

    def logprobs(self, model: str, groups: list[Group]) -> list[list[np.ndarray]]:
        return self.tables[model]

    def values(self, groups: list[Group]) -> list[list[np.ndarray]]:
        return self.tables["values"]


def tables(seed: int, names: Sequence[str] = ("policy", "reference", "values", "rollout")) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        name: [[rng.normal(-2, 0.5, length).astype(np.float32) for length in some] for some in LENGTHS]
        for name in names
    }


def rollouts(logprobs: list[list[np.ndarray]], seed: int = 0) -> list[Group]:
    """Return groups of random replies with rewards, as a rollout with these log-probabilities would."""
    rng = np.random.default_rng(seed)
    return [
        Group(str(number), rng.integers(0, 9, 4, dtype=np.int32), [
            Completion(rng.integers(0, 9, len(each), dtype=np.int32), reward=float(rng.normal()), logprobs=each)
            for each in some
        ])
        for number, some in enumerate(logprobs)
    ]  # fmt: skip


def collected(algorithm: Any, seed: int = 0, earlier: dict[str, float] | None = None) -> tuple[list[Group], Context]:
    ctx = Context(tables(seed), earlier)
    return algorithm.collect(rollouts(ctx.tables["rollout"]), ctx), ctx


def loss_of(
    algorithm: Any, groups: list[Group], logprobs: torch.Tensor, **more: torch.Tensor
) -> tuple[torch.Tensor, dict[str, Any]]:
    batch = build_batch([groups])
    terms = algorithm.loss(Outputs(logprobs=logprobs, **more), batch)
    units = {"completions": 9, "tokens": int(batch.completion_lengths.sum())}
    values = {name: term.sum / units[term.unit] for name, term in terms.items()}
    return sum((terms[name].weight * value for name, value in values.items()), torch.zeros(())), values


def flat(groups: list[Group], name: str) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([getattr(c, name) for group in groups for c in group.completions]))


@pytest.mark.parametrize("normalise_rewards", [True, False])
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_rloo(shift: float, normalise_rewards: bool) -> None:
    algorithm = RLOO(kl_weight=0.3, reward_weight=0.7, clip=0.25, normalise_rewards=normalise_rewards)
    groups, ctx = collected(algorithm)
    rewards = [completion.reward for group in groups for completion in group.completions]
    std = np.std(rewards) if normalise_rewards else 1.0  # the leave-one-out baseline removes the mean
    noise = torch.randn(flat(groups, "logprobs").shape, generator=torch.Generator().manual_seed(1)) * shift
    logprobs = (flat(groups, "logprobs") + noise).requires_grad_()
    loss, metrics = loss_of(algorithm, groups, logprobs)
    total, start, clipped = torch.zeros(()), 0, 0
    for number, group in enumerate(groups):
        returns = [
            0.7 * completion.reward / std - 0.3 * float((policy - reference).sum())
            for completion, policy, reference in zip(
                group.completions, ctx.tables["policy"][number], ctx.tables["reference"][number], strict=True
            )
        ]
        for place, completion in enumerate(group.completions):
            advantage = returns[place] - np.mean(returns[:place] + returns[place + 1 :])
            span = slice(start, start := start + len(completion.ids))
            ratio = (logprobs[span] - flat(groups, "logprobs")[span]).sum().exp()
            clipped += bool(abs(ratio - 1) > 0.25)
            total = total - torch.min(advantage * ratio, advantage * ratio.clamp(0.75, 1.25)) / 9
    assert loss.item() == pytest.approx(total.item(), rel=1e-5, abs=1e-6)
    (mine,), (expected,) = torch.autograd.grad(loss, logprobs), torch.autograd.grad(total, logprobs)
    torch.testing.assert_close(mine, expected)
    assert metrics["clip_fraction"].item() == pytest.approx(clipped / 9) and (clipped > 0) == (shift > 0)
    if not shift:
        assert metrics["ratio"] == 1


@pytest.mark.parametrize("normalise_std", [True, False])
@pytest.mark.parametrize("shift", [0.0, 0.3])
@pytest.mark.parametrize(
    ("aggregate", "ratio"), [("reply", "token"), ("tokens", "token"), ("budget", "token"), ("reply", "sequence")]
)
def test_grpo(aggregate: str, ratio: str, shift: float, normalise_std: bool) -> None:
    settings = {"normalise_std": normalise_std, "aggregate": aggregate, "ratio": ratio, "budget": 11}
    algorithm = GRPO(kl_weight=0.2, clip_low=0.1, clip_high=0.3, **settings)  # type: ignore[arg-type]
    groups, ctx = collected(algorithm)
    noise = torch.randn(flat(groups, "logprobs").shape, generator=torch.Generator().manual_seed(1)) * shift
    logprobs = (flat(groups, "logprobs") + noise).requires_grad_()
    loss, metrics = loss_of(algorithm, groups, logprobs)
    total, start = torch.zeros(()), 0
    for group, references in zip(groups, ctx.tables["reference"], strict=True):
        rewards = np.array([completion.reward for completion in group.completions])
        for completion, reference in zip(group.completions, references, strict=True):
            advantage = completion.reward - rewards.mean()
            advantage = advantage / (np.std(rewards, ddof=1) + 1e-4) if normalise_std else advantage
            length = len(completion.ids)
            now, before = logprobs[start : start + length], flat(groups, "logprobs")[start : start + length]
            of_reply = (now.exp().prod() / before.exp().prod()) ** (1 / length)
            # Of one token, by what the published losses average over: 9 replies, 36 tokens, 9 replies of 11 tokens.
            share = {"reply": 1 / (9 * length), "tokens": 1 / 36, "budget": 1 / (9 * 11)}[aggregate]
            for place in range(length):
                rho = of_reply if ratio == "sequence" else now[place].exp() / before[place].exp()
                behind = torch.tensor(reference[place]) - now[place]
                loss_of_token = -torch.min(advantage * rho, advantage * rho.clamp(0.9, 1.3))
                total = total + share * (loss_of_token + 0.2 * (behind.exp() - behind - 1))
            start += length
    assert start == 36 and loss.item() == pytest.approx(total.item(), rel=1e-5, abs=1e-6)
    (mine,), (expected,) = torch.autograd.grad(loss, logprobs), torch.autograd.grad(total, logprobs)
    torch.testing.assert_close(mine, expected)
    assert (metrics["ratio"] == 1) == (shift == 0)


@pytest.mark.usefixtures("in_process_training")
@pytest.mark.parametrize("aggregate", ["reply", "tokens", "budget"])
def test_a_split_of_the_batch_changes_no_gradient(aggregate: str) -> None:
    """Five prompts with replies of 1 to 13 tokens, in one micro-batch of packed rows, and in a micro-batch each."""
    algorithm = GRPO(aggregate=aggregate, budget=7, kl_weight=0.1, entropy=False)
    rng, gradients = np.random.default_rng(0), []
    groups = random_groups(5, completions=3)
    for completion in (completion for group in groups for completion in group.completions):
        completion.logprobs = rng.normal(-5, 0.1, len(completion.ids)).astype(np.float32)
        completion.advantages = np.full(len(completion.ids), rng.normal(), np.float32)
    for budget in (4096, 16):
        stepper = make_stepper(small_lm(), algorithm, budget)
        assert len(stepper.plan([group.tokens for group in groups])[0]) == (1 if budget == 4096 else 5)
        stepper.accumulate(groups, train=True)
        gradients.append(torch.cat([weights.grad.flatten() for weights in stepper.main.module.parameters()]))
    assert gradients[0].norm() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-7)


# -- lengths near the limit, cut replies, no reference


def test_a_reply_near_the_limit_is_penalised_in_proportion() -> None:
    """DAPO's eq. 13: with 20 tokens and a cache of 5, nothing up to 15, then linear, and all of it for a cut reply."""
    algorithm, ctx = GRPO(unfinished_penalty=2.0, unfinished_ramp=0.25), Context({})
    cases = {10: 0.0, 15: 0.0, 16: 0.4, 18: 1.2, 20: 2.0}
    replies = [Completion(np.arange(length, dtype=np.int32), reward=1.0) for length in cases]
    cut = Completion(np.arange(12, dtype=np.int32), reward=1.0, finish_reason="length")
    rewards = algorithm.rewards(Group("a", np.zeros(1, np.int32), [*replies, cut]), ctx)
    assert rewards == pytest.approx([*(1 - penalty for penalty in cases.values()), -1.0])
    assert ctx.notes["unfinished_penalty"] == pytest.approx((0.4 + 1.2 + 2 + 2) / 6)


@pytest.mark.parametrize("algorithm", [RLOO(), GRPO(), PPO()], ids=lambda each: type(each).__name__)
def test_masked_replies_count_in_the_advantages_of_others_only(algorithm: Any) -> None:
    masked, ctx = dataclasses.replace(algorithm, mask_unfinished=True), Context(tables(0))
    plain, _ = collected(algorithm)
    groups = rollouts(ctx.tables["rollout"])
    cut = [groups[0].completions[1], *groups[2].completions]
    for completion in cut:
        completion.finish_reason = "length"
    rest = masked.collect(groups, ctx)
    assert [len(group.completions) for group in rest] == [2, 3]
    others = [plain[0].completions[0], plain[0].completions[2], *plain[1].completions]
    for mine, other in zip([c for group in rest for c in group.completions], others, strict=True):
        np.testing.assert_array_equal(mine.advantages, other.advantages)


@pytest.mark.parametrize(
    "algorithm",
    [RLOO(kl_weight=0), GRPO(kl_weight=0), PPO(kl_weight=0), PPO(kl_weight=0, kl_in="loss")],
    ids=lambda each: type(each).__name__,
)
def test_without_a_weight_of_the_divergence_there_is_no_reference(algorithm: Any) -> None:
    assert algorithm.reference_kind == "none"
    ctx = Context(tables(0, ("policy", "values", "rollout")))  # it knows no reference
    groups = algorithm.collect(rollouts(ctx.tables["rollout"]), ctx)
    more = {"values": flat(groups, "values")} if isinstance(algorithm, PPO) else {}
    loss, metrics = loss_of(algorithm, groups, flat(groups, "logprobs"), **more)
    assert torch.isfinite(loss) and "loss_kl" not in metrics
    assert all(completion.ref_logprobs is None for group in groups for completion in group.completions)


# -- options of all three

ALL = [RLOO(), GRPO(), PPO(whiten=False)]


@pytest.mark.parametrize("algorithm", ALL, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("cap", [0.8, 2.0, 1e9])
def test_advantages_are_weighed_by_the_truncated_ratio_of_trainer_and_rollout(algorithm: Any, cap: float) -> None:
    plain, ctx = collected(algorithm)
    weighed, noted = collected(dataclasses.replace(algorithm, importance_cap=cap))
    differences, weights, signed = [], [], []
    for number, group in enumerate(plain):
        for place, completion in enumerate(group.completions):
            trainer, rollout = (ctx.tables[name][number][place] for name in ("policy", "rollout"))
            ratio = np.prod(np.exp(trainer - rollout)) if isinstance(algorithm, RLOO) else np.exp(trainer - rollout)
            weight = np.minimum(ratio, cap) * np.ones_like(trainer)
            other = weighed[number].completions[place]
            np.testing.assert_allclose(other.advantages, completion.advantages * weight, rtol=1e-4)
            np.testing.assert_array_equal(other.logprobs, trainer)
            differences.append(np.abs(trainer - rollout))
            signed.append(trainer - rollout)
            weights.append(weight)
    every = np.concatenate(differences)
    for seen in (ctx, noted):
        assert seen.notes["logprob_difference_mean"] == pytest.approx(every.mean(), rel=1e-5)
        assert seen.notes["logprob_difference_max"] == pytest.approx(every.max(), rel=1e-5)
        kl = np.concatenate(signed).astype(float)
        assert seen.notes["mismatch_kl"] == pytest.approx((np.exp(kl) - kl - 1).mean(), rel=1e-5)
        assert "masked" not in seen.notes
    assert "importance" not in ctx.notes
    assert noted.notes["importance"] == pytest.approx(np.concatenate(weights).mean(), rel=1e-4)


MASKS: list[dict[str, float]] = [
    {"importance_floor": 0.5},
    {"importance_floor": 0.9, "importance_cap": 2.0},
    {"sequence_floor": 0.7},
    {"sequence_ceiling": 1.3, "importance_cap": 1.5},
    {"sequence_floor": 0.8, "sequence_ceiling": 1.6, "importance_floor": 0.4, "importance_cap": 1e9},
    {"sequence_floor": 0.01, "sequence_ceiling": 100.0},  # masks nothing
]
KINDS = [
    RLOO(kl_weight=0.2),
    PPO(whiten=False, kl_in="loss"),
    *(GRPO(aggregate=aggregate, budget=11) for aggregate in ("reply", "tokens", "budget")),
    GRPO(ratio="sequence"),
]


@pytest.mark.parametrize("masks", MASKS, ids=str)
@pytest.mark.parametrize("algorithm", KINDS, ids=lambda each: f"{type(each).__name__}-{getattr(each, 'aggregate', '')}")
def test_masked_tokens_and_replies_are_neither_summed_nor_counted(algorithm: Any, masks: dict[str, float]) -> None:
    """The loss of the rest, token by token, divided by the number of tokens and replies that remain."""
    plain, ctx = collected(algorithm)
    rest, noted = collected(dataclasses.replace(algorithm, **masks))
    low, high = masks.get("sequence_floor", 0.0), masks.get("sequence_ceiling", np.inf)
    expected, numbers = (
        [],
        [],
    )  # of each reply that remains, its tokens' advantages and the reference's log-probabilities
    for number, group in enumerate(plain):
        for place, completion in enumerate(group.completions):
            trainer, rollout = (ctx.tables[name][number][place].astype(float) for name in ("policy", "rollout"))
            ratios, mean = np.exp(trainer - rollout), np.exp((trainer - rollout).mean())
            ratios = np.full_like(ratios, ratios.prod()) if isinstance(algorithm, RLOO) else ratios
            ratios = np.full_like(ratios, mean) if getattr(algorithm, "ratio", "") == "sequence" else ratios
            kept = (ratios >= masks.get("importance_floor", 0.0)) & (low <= mean <= high)
            weights = np.minimum(ratios, masks["importance_cap"]) if "importance_cap" in masks else np.ones_like(ratios)
            numbers += kept.tolist()
            if kept.any():
                references = ctx.tables["reference"][number][place][kept]
                expected.append(((completion.advantages * weights)[kept], trainer[kept], references))
    found = [completion for group in rest for completion in group.completions]
    assert noted.notes["masked"] == pytest.approx(1 - np.mean(numbers))
    assert len(numbers) == 36 and (min(numbers) == 0) == (low != 0.01), "the case masks something"
    for completion, (advantages, trainer, references) in zip(found, expected, strict=True):
        np.testing.assert_allclose(completion.advantages, advantages, rtol=1e-4)
        np.testing.assert_allclose(completion.logprobs, trainer, rtol=1e-6)
        np.testing.assert_array_equal(completion.ref_logprobs, references)
        assert completion.trained_tokens == len(advantages)
    logprobs = (flat(rest, "logprobs") + 0.01).requires_grad_()
    values = {"values": flat(rest, "values")} if isinstance(algorithm, PPO) else {}
    batch = build_batch([rest])
    terms = algorithm.loss(Outputs(logprobs=logprobs, **values), batch)
    tokens = [len(advantages) for advantages, _, _ in expected]
    units = {"tokens": sum(tokens), "completions": len(tokens)}
    total = 0.0
    for (advantages, _, _), length in zip(expected, tokens, strict=True):
        ratio = np.exp(0.01 * length) if isinstance(algorithm, RLOO) else np.exp(0.01)
        clip = [algorithm.clip_low, algorithm.clip_high] if isinstance(algorithm, GRPO) else [algorithm.clip] * 2
        losses = np.maximum(-advantages * ratio, -advantages * np.clip(ratio, 1 - clip[0], 1 + clip[1]))
        share = {"tokens": 1 / sum(tokens), "budget": 1 / (11 * len(tokens)), "reply": 1 / (length * len(tokens))}
        aggregate = getattr(algorithm, "aggregate", "tokens" if isinstance(algorithm, PPO) else "reply")
        total += losses.sum() * share[aggregate]
    loss = terms["loss_policy"].sum / units[terms["loss_policy"].unit]
    assert loss.item() == pytest.approx(total, rel=2e-3, abs=1e-6)


def test_masks_leave_the_rounds_replies_as_they_were_written() -> None:
    ctx = Context(tables(0))
    groups = rollouts(ctx.tables["rollout"])
    GRPO(importance_floor=0.9, sequence_ceiling=1.2).collect(groups, ctx)
    assert [len(c.logprobs) for group in groups for c in group.completions] == [n for some in LENGTHS for n in some]
    assert all(completion.trained is None for group in groups for completion in group.completions)


def test_a_round_whose_replies_are_all_masked_trains_on_nothing() -> None:
    for algorithm in (RLOO(), GRPO(), PPO()):
        rest, ctx = collected(dataclasses.replace(algorithm, sequence_floor=0.99, sequence_ceiling=1.0001))
        assert rest == [] and ctx.notes["masked"] == 1


def test_a_ratio_that_is_no_number_is_not_masked() -> None:
    ctx = Context(tables(0))
    ctx.tables["policy"][0][0][1] = np.nan
    rest = GRPO(importance_floor=0.5).collect(rollouts(ctx.tables["rollout"]), ctx)
    assert np.isnan(rest[0].completions[0].logprobs).any(), "the step finds the loss that is not finite"


@pytest.mark.usefixtures("in_process_training")
def test_a_mask_gives_the_same_gradient_in_any_split_of_the_batch() -> None:
    """Micro-batches of a masked first token, and fillers of it, change nothing."""
    algorithm = GRPO(aggregate="reply", kl_weight=0.1, entropy=False)
    rng, gradients = np.random.default_rng(0), []
    groups = random_groups(5, completions=2)
    for completion in (completion for group in groups for completion in group.completions):
        completion.logprobs = rng.normal(-5, 0.1, len(completion.ids)).astype(np.float32)
        completion.advantages = np.full(len(completion.ids), rng.normal(), np.float32)
    for group in groups:
        group.completions = [
            c.with_trained(np.arange(len(c.ids)) > (0 if len(c.ids) > 1 else -1)) for c in group.completions
        ]
    for budget in (4096, 16):
        stepper = make_stepper(small_lm(), algorithm, budget)
        stepper.accumulate(groups, train=True)
        gradients.append(torch.cat([weights.grad.flatten() for weights in stepper.main.module.parameters()]))
    assert gradients[0].norm() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-7)
    loss = algorithm.loss(Outputs(logprobs=torch.zeros(2)), build_batch([[groups[0].shortened()]]))
    assert all(torch.isfinite(term.sum) for term in loss.values())


# -- an unbiased gradient of the divergence


@pytest.mark.parametrize("algorithm", [GRPO(), GRPO(ratio="sequence"), PPO(kl_in="loss")], ids=["grpo", "gspo", "ppo"])
@pytest.mark.parametrize("unbiased", [False, True])
def test_the_divergence_of_a_token_may_be_weighed_by_its_ratio(algorithm: Any, unbiased: bool) -> None:
    algorithm = dataclasses.replace(algorithm, kl_unbiased=unbiased, kl_weight=0.3)
    groups, _ = collected(algorithm)
    old, references = flat(groups, "logprobs"), flat(groups, "ref_logprobs")
    logprobs = (old + 0.3 * torch.randn(old.shape, generator=torch.Generator().manual_seed(1))).requires_grad_()
    values = {"values": flat(groups, "values")} if isinstance(algorithm, PPO) else {}
    batch = build_batch([groups])
    term = algorithm.loss(Outputs(logprobs=logprobs, **values), batch)["loss_kl"]
    lengths = torch.tensor([float(n) for some in LENGTHS for n in some for _ in range(n)])
    behind = references - logprobs
    losses = (behind.exp() - behind - 1) * ((logprobs - old).exp() if unbiased else 1.0)
    expected = losses.sum() if isinstance(algorithm, PPO) else (losses / lengths).sum()
    assert term.sum.item() == pytest.approx(expected.item(), rel=1e-5)
    (mine,), (theirs,) = (torch.autograd.grad(each, logprobs) for each in (term.sum, expected))
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_weighed_by_the_ratio_its_gradient_is_that_of_the_divergence(drift: float) -> None:
    """The mean over all tokens of a small vocabulary, drawn by the old policy."""
    rng = torch.Generator().manual_seed(0)
    logits, reference = torch.randn(6, generator=rng), (2 * torch.randn(6, generator=rng)).log_softmax(0)
    old = logits.log_softmax(0)
    logits = (logits + drift * torch.randn(6, generator=rng)).requires_grad_()
    policy = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits, retain_graph=True)
    batch: Any = SimpleNamespace(ref_logprobs=reference, old_logprobs=old)
    for unbiased in (True, False):
        estimate = (old.exp() * kl_losses(policy, batch, unbiased)).sum()
        (gradient,) = torch.autograd.grad(estimate, logits, retain_graph=True)
        assert torch.allclose(gradient, exact, atol=1e-6) == unbiased


# -- settings

VLLM = ["rollout=vllm", "dry_run=true"]


@pytest.mark.parametrize("algo", ["grpo", "dr_grpo", "dapo", "gspo", "rloo", "ppo", "distil"])
@pytest.mark.parametrize(
    ("rollout", "cap"),
    [("hf", None), ("vllm", 2.0), ("vllm_server", 2.0)],
)
def test_the_default_weighs_where_another_engine_writes(algo: str, rollout: str, cap: float | None) -> None:
    assert compose([f"algo={algo}", f"rollout={rollout}"]).algo.importance_cap == cap
    assert compose([f"algo={algo}", f"rollout={rollout}", "algo.importance_cap=null"]).algo.importance_cap is None
    assert compose([f"algo={algo}", f"rollout={rollout}", "algo.importance_cap=3"]).algo.importance_cap == 3


@pytest.mark.parametrize(("rollout", "differ"), [("hf", []), ("vllm", ["algo.importance_cap"])])
def test_a_run_of_an_earlier_version_is_resumed_unless_its_replies_were_not_weighed(
    rollout: str, differ: list[str]
) -> None:
    now = identity(check(compose(["algo=grpo", "reward=tiny", f"rollout={rollout}", "dry_run=true"])))
    added = ("importance_floor", "sequence_floor", "sequence_ceiling", "kl_unbiased")
    earlier = {key: value for key, value in now.items() if key.removeprefix("algo.") not in added}
    assert differing(now, earlier | {"algo.importance_cap": None}) == differ
    assert differing(now | {"algo.importance_cap": None}, earlier | {"algo.importance_cap": None}) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["algo=grpo", *VLLM, "algo.importance_floor=0"], "importance_floor=0.0: must be greater than 0"),
        (["algo=grpo", *VLLM, "algo.importance_floor=1"], "importance_floor=1.0: must be .*less than 1"),
        (["algo=rloo", *VLLM, "algo.sequence_floor=2"], "sequence_floor=2.0: must be .*less than 1"),
        (["algo=ppo", *VLLM, "algo.sequence_ceiling=0.5"], "sequence_ceiling=0.5: must be greater than 1"),
        (
            ["algo=grpo", *VLLM, "algo.importance_floor=0.5", "algo.importance_cap=0.4"],
            "importance_floor=0.5 and algo.importance_cap=0.4: .* floor below the cap",
        ),
        (
            ["algo=ppo", "rollout=vllm_server", "rollout.max_staleness=1", "algo.importance_cap=null", "dry_run=true"],
            "rollout.max_staleness=1 .* set algo.importance_cap as well",
        ),
    ],
)
def test_limits_of_ratios_that_cannot_work_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(compose([*given, *([] if "algo=distil" in given else ["reward=tiny"])]))


@pytest.mark.parametrize(
    ("given", "key", "reason"),
    [
        (["algo=grpo"], "importance_floor", "the trainer writes the replies itself"),
        (["algo=rloo"], "sequence_floor", "the trainer writes the replies itself"),
        (["algo=ppo"], "sequence_ceiling", "the trainer writes the replies itself"),
        (["algo=grpo", *VLLM], "importance_floor", ""),
        (["algo=ppo", *VLLM], "sequence_ceiling", ""),
        (["algo=grpo", *VLLM], "ratio", ""),  # it decides what the cap applies to
        (["algo=grpo", *VLLM, "algo.importance_cap=null"], "ratio", "a round is one step"),
        (["algo=grpo", *VLLM, "algo.importance_cap=null", "algo.importance_floor=0.5"], "ratio", ""),
        (["algo=grpo"], "kl_unbiased", ""),
        (["algo=dapo"], "kl_unbiased", "algo.kl_weight=0"),
        (["algo=ppo"], "kl_unbiased", "only algo.kl_in=loss"),
        (["algo=ppo", "algo.kl_in=loss"], "kl_unbiased", ""),
        (["algo=ppo", "algo.kl_in=loss", "algo.kl_weight=0"], "kl_unbiased", "only algo.kl_in=loss"),
    ],
)
def test_options_of_ratios_without_an_effect_are_named(given: list[str], key: str, reason: str) -> None:
    config = check(compose([*given, "reward=tiny"]))
    assert build(config, "algo").unused(config).get(key, "").startswith(reason)
    assert (key in build(config, "algo").unused(config)) == bool(reason)


@pytest.mark.parametrize("algorithm", ALL, ids=lambda each: type(each).__name__)
def test_entropy_and_the_distance_from_the_old_policy_are_measured_per_token(algorithm: Any) -> None:
    algorithm = dataclasses.replace(algorithm, entropy_weight=0.3)
    groups, _ = collected(algorithm)
    old, generator = flat(groups, "logprobs"), torch.Generator().manual_seed(1)
    logprobs = old + 0.3 * torch.randn(old.shape, generator=generator)
    entropy = torch.rand(old.shape, generator=generator).requires_grad_()
    values = {"values": torch.zeros_like(old)} if isinstance(algorithm, PPO) else {}
    loss, metrics = loss_of(algorithm, groups, logprobs, entropy=entropy, **values)
    ratio = (logprobs - old).exp()
    assert metrics["approx_kl"].item() == pytest.approx((ratio - 1 - ratio.log()).mean().item(), rel=1e-4)
    assert metrics["entropy"].item() == pytest.approx(entropy.mean().item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, entropy)
    torch.testing.assert_close(gradient, torch.full_like(entropy, -0.3 / len(entropy)))
    assert "entropy" not in loss_of(algorithm, groups, logprobs, **values)[1], "no engine has computed the entropy"


@pytest.mark.parametrize("algorithm", ALL, ids=lambda each: type(each).__name__)
def test_the_policy_rests_once_it_is_too_far_away(algorithm: Any) -> None:
    ctx: Any = Context({})
    stops = dataclasses.replace(algorithm, stop_kl=0.1)
    for peak, learns in ((None, True), (0.1, True), (0.11, False)):
        ctx.peaks = {} if peak is None else {"approx_kl": peak}
        for asked in ("gets_gradients", "moves_weights"):
            assert getattr(stops, asked)("policy", ctx) == learns
            assert getattr(algorithm, asked)("policy", ctx) and getattr(stops, asked)("critic", ctx)


def test_k3_estimates_the_divergence() -> None:
    rng = torch.Generator().manual_seed(0)
    p, q = (torch.randn(6, generator=rng).log_softmax(0) for _ in range(2))
    exact = (p.exp() * (p - q)).sum()
    assert (p.exp() * k3(q - p)).sum() == pytest.approx(exact.item(), rel=1e-4)
    assert (k3(q - p) >= 0).all()


def test_an_own_algorithm_without_advantages_is_refused_in_one_line() -> None:
    class Own(ReplyAdvantages):
        def loss(self, outputs: Any, batch: Any) -> Any: ...

    with pytest.raises(UserError, match="lacks advantages_of"):
        Own()  # type: ignore[abstract]
