"""`rollout=hf` writes the same replies as transformers, with the same log-probabilities as training."""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._C._dynamo.eval_frame import set_eval_frame
from torch.profiler import ProfilerActivity, profile
from transformers import AutoTokenizer, GenerationConfig
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from psychocounsel.data.batch import build_batch
from psychocounsel.data.group import Group
from psychocounsel.model.packed import Policy
from psychocounsel.model.shape import Shape
from psychocounsel.rollout.base import Sampling
from psychocounsel.rollout.hf import HF, HFRollout, _draw, _filtered, _pick
from tests.support.composed import compose
from tests.support.harness import ARCHITECTURES, TINY, small_lm

STOP = 7


def writer(lm: Any, batch_size: int = 64) -> HFRollout:
    return HFRollout(Policy(lm, "test"), AutoTokenizer.from_pretrained(TINY), [STOP], batch_size)


def prompts(*lengths: int) -> list[Group]:
    rng = np.random.default_rng(5)
    return [Group(str(n), rng.integers(10, 256, length, dtype=np.int32)) for n, length in enumerate(lengths)]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_greedy_replies_are_those_of_transformers(kind: str) -> None:
    lm, groups, expected = small_lm(kind).eval(), prompts(3, 17, 9), []
    settings = GenerationConfig(do_sample=False, max_new_tokens=90, eos_token_id=STOP, pad_token_id=0)
    for group in groups:
        ids = torch.from_numpy(group.prompt_ids.astype(np.int64))[None]
        with torch.no_grad():
            whole = lm.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        expected.append(whole[0, ids.shape[1] :].tolist())
    made = writer(lm).generate(groups, Sampling(1, 0.0, 90, 512, seed=0))
    assert max(map(len, expected)) > 70, "keys and values were moved to larger tensors"
    assert [group.completions[0].ids.tolist() for group in made] == expected


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_prompts_with_a_long_common_beginning_share_its_pass(kind: str) -> None:
    """Prompts of a judge begin with the same rubric. Few rows fit in a batch, so that several batches use the beginning."""
    lm, rng = small_lm(kind).eval(), np.random.default_rng(3)
    same = rng.integers(10, 256, 270, dtype=np.int32)
    groups = [replace(group, prompt_ids=np.concatenate([same, group.prompt_ids])) for group in prompts(3, 17, 9, 2, 5)]
    sampling, widths = Sampling(2, 0.0, 20, 512, seed=0), []
    lm.register_forward_pre_hook(lambda *given: widths.append(given[2]["input_ids"].shape), with_kwargs=True)
    made = writer(lm, batch_size=5).generate(groups, sampling)
    if kind not in ("mistral", "gemma2", "gemma3_text"):  # these have sliding windows
        assert [width for width in widths if width[1] > 1] == [(1, 270), (2, 3), (2, 9), (1, 17)]
    for group, written in zip(groups, made, strict=True):
        (alone,) = writer(lm).generate([group], sampling)
        for reply, expected in zip(written.completions, alone.completions, strict=True):
            assert reply.ids.tolist() == expected.ids.tolist()
            np.testing.assert_allclose(reply.logprobs, expected.logprobs, atol=2e-5)


def test_batches_are_no_larger_than_their_keys_and_values_may_be() -> None:
    rollout = HFRollout(Policy(small_lm().eval(), "test"), None, [STOP], 8, cached_tokens=100)
    groups = prompts(30, 4, 5, 6, 200, 7)
    assert rollout._batches(groups, Sampling(1, 1.0, 20, 512, seed=0)) == [[1, 2, 3], [5, 0], [4]]
    assert rollout._batches(groups, Sampling(4, 1.0, 20, 512, seed=0)) == [[1], [2], [3], [5], [0], [4]]
    assert rollout._batches(groups, Sampling(1, 1.0, 20, 25, seed=0))[0] == [1, 2, 3, 5]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_logprobs_are_those_that_training_computes(kind: str, temperature: float) -> None:
    lm = small_lm(kind).eval()
    made = writer(lm).generate(prompts(3, 17, 9), Sampling(4, temperature, 30, 512, seed=1))
    replies = [completion for group in made for completion in group.completions]
    assert len({reply.ids.tobytes() for reply in replies}) == len(replies), "each sample is drawn separately"
    policy = Policy(lm, "test", temperature=temperature)
    with torch.no_grad():
        batch = build_batch([made] if policy.attention.one_row else [[group] for group in made])
        pieces = policy.pieces(policy(batch), batch)
    for reply, expected in zip(replies, [values for some in pieces for values in some], strict=True):
        np.testing.assert_allclose(reply.logprobs, expected, atol=2e-5)


def test_replies_end_at_the_stop_token_or_where_they_are_cut() -> None:
    made = writer(small_lm().eval()).generate(prompts(3, 30), Sampling(40, 1.0, 50, 60, seed=2))
    for group, longest in zip(made, (50, 30), strict=True):
        reasons = Counter(completion.finish_reason for completion in group.completions)
        assert min(reasons["stop"], reasons["length"]) > 0
        for completion in group.completions:
            ended = completion.ids[-1] == STOP
            assert completion.finish_reason == ("stop" if ended else "length")
            assert STOP not in completion.ids[:-1]
            assert len(completion.ids) <= longest and (ended or len(completion.ids) == longest)


def test_the_same_seed_writes_the_same_and_the_version_is_noted() -> None:
    lm = small_lm().eval()
    rollout, groups = writer(lm, batch_size=6), prompts(3, 17, 9, 4)
    first, again, other = (rollout.generate(groups, Sampling(3, 1.0, 20, 512, seed=seed)) for seed in (1, 1, 2))

    def ids(made: list[Group]) -> list[list[int]]:
        return [completion.ids.tolist() for group in made for completion in group.completions]

    assert ids(first) == ids(again) != ids(other)
    assert [group.id for group in first] == ["0", "1", "2", "3"]
    rollout.sync(12)
    assert rollout.generate(groups, Sampling(1, 1.0, 5, 512, seed=1))[0].completions[0].policy_version == 12


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    lm = small_lm(vocab_size=700).eval()
    (group,) = prompts(5)
    (made,) = writer(lm, batch_size=20_000).generate([group], Sampling(20_000, 0.7, 1, 512, seed=3))
    with torch.no_grad():
        logits = lm(input_ids=torch.from_numpy(group.prompt_ids.astype(np.int64))[None]).logits[0, -1]
    likely = (logits / 0.7).softmax(-1).numpy()
    seen = np.bincount([int(completion.ids[0]) for completion in made.completions], minlength=700) / 20_000
    assert np.abs(seen - likely).max() < 4 * np.sqrt(likely.max() / 20_000)
    assert np.abs(seen - likely).sum() < 0.2


def test_what_cannot_be_is_never_drawn() -> None:
    weights = torch.tensor([[0.0, 0.0, 1.0, 0.0, 3.0, 0.0]]).repeat(4000, 1)
    drawn = _pick(weights, torch.Generator().manual_seed(0)).squeeze(1)
    counts = torch.bincount(drawn, minlength=6).tolist()
    assert counts[2] + counts[4] == 4000 and abs(counts[4] - 3000) < 150


@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (0, 0.7), (9, 0.5)])
def test_filters_are_those_of_transformers(top_k: int, top_p: float) -> None:
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(0)) * 3
    expected = TemperatureLogitsWarper(0.6)(None, logits)
    ids: Any = None
    if top_k:
        expected = TopKLogitsWarper(top_k)(ids, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(ids, expected)
    assert torch.equal(_filtered(logits, Sampling(1, 0.6, 1, 9, 0, top_p, top_k)), expected)


def test_a_policy_in_training_goes_on_training(tmp_path: Path) -> None:
    rollout = writer(small_lm())
    rollout.policy.train()
    before = rollout.policy.lm.config._attn_implementation
    rollout.generate(prompts(4), Sampling(1, 1.0, 3, 512, seed=0))
    assert rollout.policy.training and rollout.policy.lm.config._attn_implementation == before


@pytest.fixture(params=[False, True], ids=["plain", "compiling"])
def compiling(request: pytest.FixtureRequest) -> Iterator[None]:
    """Without and with torch.compile's hook on Python calls, under which a caller's unnamed tensors live longer."""
    before = set_eval_frame(False) if request.param else None
    yield
    if request.param:
        set_eval_frame(before)


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize("top_k", [0, 50])
def test_the_estimate_of_the_next_logits_is_what_drawing_a_token_allocates(top_p: float, top_k: int) -> None:
    rows, vocabulary = 8, 20_000
    logits, sampling = torch.randn(rows, vocabulary), Sampling(1, 0.7, 4, 16, 0, top_p, top_k)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        _draw(logits, sampling, torch.Generator())
    events = watched.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((each.start_ns(), each.nbytes()) for each in events if each.name() == "[memory]")
    most = max(itertools.accumulate(change for _, change in changes))
    shape = Shape(8, 1, 8, 1, 1, 8, vocabulary, True)
    settings = HF(batch_size=rows, top_p=top_p, top_k=top_k)
    told = settings.memory(shape, compose(["algo=rloo", "reward=tiny"]), 1)
    assert told["next logits"] == pytest.approx(logits.nbytes + most, rel=0.02)
