"""Packed batches equal separate sequences, for every architecture; plans are balanced and complete."""

import numpy as np
import pytest
import torch

from psychocounsel.data.batch import build_batch
from psychocounsel.data.group import Group
from psychocounsel.data.packing import global_counts, plan_step
from psychocounsel.errors import UserError
from psychocounsel.model import attention, output_layer
from psychocounsel.model import attention as ways
from psychocounsel.model.cpu import blockwise
from psychocounsel.model.packed import Policy, check_packing
from tests.support.harness import ARCHITECTURES, random_groups, small_lm


def plain_logprobs(lm: object, group: Group, index: int) -> torch.Tensor:
    """Return log-probabilities of one sequence by a plain forward pass of transformers with its own attention mask."""
    completion = group.completions[index]
    ids = torch.tensor(np.concatenate([group.prompt_ids, completion.ids]), dtype=torch.long)[None]
    logits = lm(input_ids=ids).logits[0, len(group.prompt_ids) - 1 : -1]  # type: ignore[operator]
    return logits.log_softmax(-1).gather(1, ids[0, len(group.prompt_ids) :, None]).squeeze(1)


def gradients(lm: object) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in lm.named_parameters()}  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("completions", [2, 4])
@pytest.mark.parametrize("attention", ["dense", "varlen", "varlen, by blocks"])
def test_packed_equals_one_by_one(
    kind: str, completions: int, attention: str, monkeypatch: pytest.MonkeyPatch, in_process_training: None
) -> None:
    if attention != "dense" and kind == "gemma2":
        pytest.skip("capped scores, refused")
    if attention == "varlen, by blocks":
        monkeypatch.setattr(blockwise, "_SMALLEST_HEAD", 1)
    monkeypatch.setitem(
        output_layer._PIECE_BYTES, "cpu", 4 * 256 * 7
    )  # so that logits are computed in several pieces of seven tokens
    lm = small_lm(kind)
    policy = Policy(lm, kind, attention=attention.split(",")[0])
    groups = random_groups(5, completions, longest=14)  # longer than the sliding windows of 6 tokens
    padded = [[groups[0], groups[3]], [groups[1]], [groups[2], groups[4]]]
    batch = build_batch([groups] if policy.attention.one_row else padded)
    weights = torch.linspace(-1, 1, len(batch.target_ids))

    lm.zero_grad()
    packed = policy(batch)
    (packed * weights).sum().backward()
    packed_gradients = gradients(lm)

    lm.zero_grad()
    lm.set_attn_implementation("eager")
    alone = torch.cat([plain_logprobs(lm, group, index) for group in batch.groups for index in range(completions)])
    (alone * weights).sum().backward()

    torch.testing.assert_close(packed, alone, rtol=0, atol=2e-5)
    for name, gradient in gradients(lm).items():
        difference = (packed_gradients[name] - gradient).norm() / gradient.norm().clamp(min=1e-6)
        assert difference < 2e-4, (name, float(difference))


@pytest.fixture
def flex_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use FlexAttention uncompiled, because on CPU it has a forward pass, but no backward pass."""
    torch._dynamo.reset()
    monkeypatch.setattr(ways, "require_compiler", lambda *_: None)
    monkeypatch.setattr(attention, "BACKEND", "eager")


@torch.no_grad()
@pytest.mark.usefixtures("flex_on_cpu")
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_block_mask_gives_the_same(kind: str) -> None:
    policy = Policy(small_lm(kind), kind)
    batch = build_batch([random_groups(3, 3), random_groups(3, 2, seed=1)])
    wide = build_batch([random_groups(3, 3), random_groups(3, 2, seed=1)], multiple=128)
    expected = Policy(policy.lm, kind, attention="dense")(batch)
    by_blocks = Policy(policy.lm, kind, attention="flex", device="cuda")
    torch.testing.assert_close(by_blocks(wide), expected, rtol=0, atol=2e-5)


@pytest.mark.usefixtures("flex_on_cpu")
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_block_mask_gives_the_same_gradients(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only compiled kernels lack a backward pass on CPU; the uncompiled computation has one.
    monkeypatch.setattr(torch.nn.attention.flex_attention, "_validate_device", lambda *_: None)
    lm = small_lm(kind)
    expected_gradients = []
    for way, device in (("dense", "cpu"), ("flex", "cuda")):
        policy = Policy(lm, kind, attention=way, device=device)
        lm.zero_grad()
        policy(build_batch([random_groups(3, 3)], multiple=128)).sum().backward()
        expected_gradients.append(gradients(lm))
    for name, gradient in expected_gradients[0].items():
        difference = (expected_gradients[1][name] - gradient).norm() / gradient.norm().clamp(min=1e-6)
        assert difference < 2e-4, (name, float(difference))


def test_temperature_divides_the_logits() -> None:
    lm = small_lm()
    group = random_groups(1)[0]
    ids = torch.tensor(np.concatenate([group.prompt_ids, group.completions[0].ids]), dtype=torch.long)[None]
    expected = (lm(input_ids=ids).logits[0, len(group.prompt_ids) - 1 : -1] / 0.7).log_softmax(-1)
    expected = expected.gather(1, ids[0, len(group.prompt_ids) :, None]).squeeze(1)
    got = Policy(lm, "x", temperature=0.7)(build_batch([[group]]))[: len(group.completions[0].ids)]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_probe_accepts_what_is_right(kind: str) -> None:
    policy = Policy(small_lm(kind), kind)
    check_packing(policy, policy, torch.float32, torch.device("cpu"), kind)


def test_probe_refuses_a_model_whose_logits_we_would_get_wrong() -> None:
    policy = Policy(small_lm("gemma2"), "capped")
    policy.text_config.final_logit_softcapping, cap = None, policy.text_config.final_logit_softcapping
    policy.lm.config.final_logit_softcapping = None
    with pytest.MonkeyPatch.context() as patch:
        inner = policy.lm.forward

        def capped(*args: object, **kwargs: object) -> object:
            output = inner(*args, **kwargs)
            output.logits = torch.tanh(output.logits / cap) * cap
            return output

        patch.setattr(policy.lm, "forward", capped)
        with pytest.raises(UserError, match="capped: packed rows and separate sequences .* differ"):
            check_packing(policy, policy, torch.float32, torch.device("cpu"), "capped")


@pytest.mark.parametrize(
    ("kind", "asked", "device", "message"),
    [
        ("gemma2", "varlen", "cpu", "caps its attention scores"),
        ("llama", "flex", "cpu", "needs a GPU for its backward pass"),
    ],
)
def test_a_way_that_cannot_serve_the_model_is_refused(kind: str, asked: str, device: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Policy(small_lm(kind), kind, attention=asked, device=device)


def test_a_model_that_drops_attention_trains_as_it_would_alone() -> None:
    lm = small_lm()
    lm.config.attention_dropout = 0.1
    assert [Policy(lm, "m", device=device).attention.way for device in ("cpu", "cuda")] == ["dense", "dense"]
    for way in ("varlen", "flex"):
        with pytest.raises(
            UserError, match=f"model.attention={way}: m has attention_dropout, which only dense supports"
        ):
            Policy(lm, "m", attention=way, device="cuda")


def test_other_attention_is_refused() -> None:
    lm = small_lm("qwen3")
    lm.config.layer_types = ["full_attention", "chunked_attention", "full_attention"]
    with pytest.raises(UserError, match="chunked_attention"):
        Policy(lm, "m")


@pytest.mark.parametrize("one_row", [False, True])
@pytest.mark.parametrize(("ranks", "budget"), [(1, 64), (2, 64), (3, 40), (4, 1000)])
def test_plan_places_every_group_once_within_budget(ranks: int, budget: int, one_row: bool) -> None:
    lengths = np.random.default_rng(ranks).integers(3, 39, 50).tolist()
    plan = plan_step(lengths, ranks, budget, one_row)
    assert sorted(index for rank in plan for micro in rank for row in micro for index in row) == list(range(50))
    assert len({len(rank) for rank in plan}) == 1, "every rank needs the same number of micro-batches"
    for rank in plan:
        for micro in filter(None, rank):
            width = max(sum(lengths[index] for index in row) for row in micro)
            assert width * len(micro) <= budget
    loads = [sum(lengths[index] for micro in rank for row in micro for index in row) for rank in plan]
    assert max(loads) - min(loads) <= max(lengths)


def test_plan_pads_little() -> None:
    lengths = np.random.default_rng(0).integers(50, 900, 256).tolist()
    (plan,) = plan_step(lengths, 1, 8192)
    computed = sum(len(micro) * max(sum(lengths[index] for index in row) for row in micro) for micro in plan)
    assert sum(lengths) / computed > 0.93


def test_single_rows_are_few_and_even_over_ranks() -> None:
    lengths = np.random.default_rng(0).integers(50, 900, 256).tolist()
    plans = plan_step(lengths, 4, 8192, one_row=True)
    loads = np.array([[sum(lengths[index] for row in micro for index in row) for micro in plan] for plan in plans])
    assert loads.shape == (4, -(-sum(lengths) // (4 * 8192)))
    assert (loads.max(0) - loads.min(0)).max() < 0.02 * loads.mean(), (
        "the ranks wait for each other at every micro-batch"
    )


@pytest.mark.parametrize("ranks", [2, 3])
def test_sums_of_single_rows_are_even_over_ranks_where_rows_are_not(ranks: int) -> None:
    lengths = [1208, 1031, 986, 926, 766, 711, 674, 580, 511, 478, 433, 429, 428, 423, 422, 475]
    plans = plan_step(lengths, ranks, 1024, one_row=True)
    loads = [sum(lengths[index] for micro in plan for row in micro for index in row) for plan in plans]
    assert max(loads) - min(loads) < 0.01 * sum(lengths), "lanes wait for each other at the end of a step"


@pytest.mark.parametrize("one_row", [False, True])
def test_group_longer_than_the_budget_is_alone(one_row: bool) -> None:
    (plan,) = plan_step([100, 5, 5], 1, 20, one_row)
    assert [[0]] in plan
    (_, *empty), (_, *rest) = plan_step([100], 2, 20, one_row), plan_step([5, 5, 5], 1, 20, one_row)
    assert (empty, rest) == ([[[]]], [])


def test_global_counts() -> None:
    counts = global_counts([(3, 5), (2, 2), (7,)])
    assert counts == {"groups": 3, "pairs": 2, "completions": 5, "tokens": 19, "chosen_tokens": 12}
