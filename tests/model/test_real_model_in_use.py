"""SmolLM2-135M after a step of training: what it writes and scores is what plain transformers does, and runs resume."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, GenerationConfig

from psychocounsel.counsel.system_prompt import SHORT
from psychocounsel.data.group import Group
from psychocounsel.model.packed import Policy
from psychocounsel.reward.local_model import LocalScorer
from psychocounsel.rollout.base import Sampling
from psychocounsel.rollout.hf import HFRollout
from psychocounsel.settings import config as configs
from tests.support.composed import checked
from tests.support.harness import ROOT, cli, metrics_of
from tests.support.real_model import smollm2
from tests.support.vllm_classifier import serving_scores

pytestmark = pytest.mark.slow

SMALL = ["data.limit=8", "eval.limit=2", "eval.every=0", "global_batch_size=4", "algo.warmup=0", "model.dtype=fp32"]
SPEECHES = ["I feel so alone since the move.", "He shouts. Then he cries, and I hold him."]
REPLIES = ["What is it like when the evening comes?", "Stop.", "You deserve rest, and none of it is your fault."]


def train(folder: Path, *overrides: str, check_code: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    given = ["model=local", f"model.path={smollm2()}", *SMALL, *overrides, "run_dir=run"]
    cli("train", *given, cwd=folder, check_code=check_code, PYTHONPATH=str(ROOT))
    return folder / "run"


def test_a_merged_adapter_has_the_adapters_logprobs(tmp_path: Path) -> None:
    run = train(tmp_path, "algo.lr=1e-3", "max_steps=2", "model.lora.rank=4")
    cli("export", "run", "merge=true", "to=merged", cwd=tmp_path)
    ids = AutoTokenizer.from_pretrained(smollm2())(" ".join(SPEECHES + REPLIES), return_tensors="pt").input_ids
    adapter, merged, base = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        for path in (run / "model", tmp_path / "merged", smollm2())
    )
    with torch.no_grad():
        expected, found, before = (model(ids).logits.log_softmax(-1) for model in (adapter, merged, base))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert (found - before).abs().max() > 0.1, "the adapter has learned"


def test_rewards_are_those_of_plain_transformers_and_of_vllm(tmp_path: Path) -> None:
    model = train(tmp_path, "algo=reward", "max_steps=2") / "model"
    conversations = [
        [{"role": "user", "content": speech}, {"role": "assistant", "content": reply}]
        for speech in SPEECHES
        for reply in REPLIES
    ]
    tokenizer, lm = AutoTokenizer.from_pretrained(model), AutoModelForSequenceClassification.from_pretrained(model)
    with_prompt = [[{"role": "system", "content": SHORT}, *conversation] for conversation in conversations]
    texts = [tokenizer.apply_chat_template(conversation, tokenize=False) for conversation in with_prompt]
    with torch.no_grad():
        expected = lm(**tokenizer(texts, padding=True, return_tensors="pt")).logits[:, 0].numpy()
    ours = LocalScorer.load(str(model)).score(conversations)
    assert np.ptp(ours) > 0.05, "otherwise equal rewards would prove nothing"
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    if importlib.util.find_spec("vllm"):
        with serving_scores(model, tmp_path / "vllm.log") as address:
            served = checked(
                "reward=vllm_server", f"reward.addresses=[{address}]", f"reward.path={model}", name="evaluate"
            )
            by_vllm = configs.build(served, "reward").open(torch.device("cpu")).score(conversations)
        np.testing.assert_allclose(by_vllm, expected, atol=1e-4)


def test_greedy_rollouts_of_a_trained_policy_are_those_of_transformers(tmp_path: Path) -> None:
    model = train(tmp_path, "algo=sft", "max_steps=1") / "model"
    tokenizer = AutoTokenizer.from_pretrained(model)
    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    groups, expected = list[Group](), list[list[int]]()
    for number, speech in enumerate(SPEECHES):
        messages = [{"role": "user", "content": speech}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
        groups.append(Group(str(number), ids[0].numpy().astype(np.int32)))
        settings = GenerationConfig(do_sample=False, max_new_tokens=40, eos_token_id=tokenizer.eos_token_id)
        with torch.no_grad():
            expected.append(lm.generate(ids, generation_config=settings)[0, ids.shape[1] :].tolist())
    made = HFRollout(Policy(lm, "test"), tokenizer, [tokenizer.eos_token_id], 4).generate(
        groups, Sampling(1, 0.0, 40, 512, seed=0)
    )
    assert [group.completions[0].ids.tolist() for group in made] == expected


@pytest.mark.usefixtures("vllm")
def test_ppo_by_vllm_samples_from_the_weights_that_it_trains(tmp_path: Path) -> None:
    """An engine in the process and a server write the same replies, so the second round's losses are equal as well."""
    given = ["algo=ppo", "reward=tiny", "algo.critic=shared", "algo.passes=1", "algo.lr=1e-4", "max_length=256"]
    given += ["rollout.max_tokens=12", "rollout.cpu_cache_gb=0.25", "max_steps=2", "checkpoint.every=0"]
    rounds = list[list[dict[str, float]]]()
    for rollout in ("vllm", "vllm_server"):
        run = train(tmp_path / rollout, *given, f"rollout={rollout}")
        steps = [line for line in metrics_of(run) if line["step"]]
        assert [line["rollout/staleness"] for line in steps] == [0, 0] and steps[1]["grad_norm"] > 0
        assert max(line["rollout/logprob_difference_max"] for line in steps) < 1e-3
        rounds.append(steps)
    for by_engine, by_server in zip(*rounds, strict=True):
        for name in ("loss", "grad_norm", "rollout/reward"):
            assert by_engine[name] == pytest.approx(by_server[name], rel=1e-4), name


# Of online DPO, tests/rollout/test_vllm.py kills and resumes a run.
@pytest.mark.parametrize("algo", [pytest.param("online_dpo", marks=pytest.mark.proof), "ppo"])
def test_a_killed_online_run_resumes_as_if_unbroken(algo: str, tmp_path: Path) -> None:
    """The reward model `tiny` has its own tokenizer, so it reads the replies as texts."""
    given = [f"algo={algo}", "reward=tiny", "max_steps=2", "rollout.max_tokens=12", "checkpoint.every=1"]
    given += ["algo.samples=2", *(["algo.critic=shared", "algo.passes=1"] if algo == "ppo" else [])]
    whole = train(tmp_path / "whole", *given)
    kill = "+callbacks.kill={_target_: tests.support.killer.Kill, event: step_end, step: 2}"
    train(tmp_path / "killed", *given, kill, check_code=137)
    resumed = train(tmp_path / "killed", *given, kill)
    ours, theirs = (metrics_of(run)[-1] for run in (resumed, whole))
    assert ours["step"] == theirs["step"] == 2
    for name in ("loss", "grad_norm", "rollout/reward", "eval/reward"):
        assert ours[name] == theirs[name], name
