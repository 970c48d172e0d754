"""On-policy distillation: its loss against the reverse KL divergence, and runs with a teacher of another size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from psychocounsel.algo.base import Outputs
from psychocounsel.algo.distil import Distil
from psychocounsel.data.batch import build_batch
from psychocounsel.data.group import Completion, Group, read_groups
from psychocounsel.errors import USER_ERROR
from psychocounsel.rundir.paths import RunDir
from tests.algo.test_policy_gradient import collected, flat, loss_of
from tests.engine.test_resume import assert_bitwise_equal
from tests.support.harness import ROOT, TINY, cli, metrics_of

# A student with random weights, and the shipped model as its teacher.
_SETTINGS = ["algo=distil", "algo.teacher.path=builtin:tiny", "algo.samples=16", "algo.lr=1e-2", "algo.warmup=0"]
_SETTINGS += ["algo.schedule=constant", "max_steps=6", "data.limit=100", "global_batch_size=8", "rollout.max_tokens=12"]
_SETTINGS += ["eval.limit=20", "eval.every=2", "checkpoint.every=2"]


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_loss(shift: float) -> None:
    algorithm = Distil(clip=0.2)
    groups, ctx = collected(algorithm)
    noise = torch.randn(flat(groups, "logprobs").shape, generator=torch.Generator().manual_seed(1)) * shift
    logprobs = (flat(groups, "logprobs") + noise).requires_grad_()
    loss, _ = loss_of(algorithm, groups, logprobs)
    total, place, gaps = torch.zeros(()), 0, []
    for policies, teachers in zip(ctx.tables["policy"], ctx.tables["reference"], strict=True):
        for policy, teacher in zip(policies, teachers, strict=True):
            for old, wanted in zip(policy.tolist(), teacher.tolist(), strict=True):
                ratio = (logprobs[place] - old).exp()
                total = total + torch.max((old - wanted) * ratio, (old - wanted) * ratio.clamp(0.8, 1.2)) / 36
                gaps.append(old - wanted)
                place += 1
    assert loss.item() == pytest.approx(total.item(), rel=1e-5, abs=1e-6)
    (mine,), (expected,) = torch.autograd.grad(loss, logprobs), torch.autograd.grad(total, logprobs)
    torch.testing.assert_close(mine, expected)
    assert ctx.notes["kl_per_token"] == pytest.approx(np.mean(gaps), rel=1e-5)


def test_the_expected_gradient_is_that_of_the_reverse_divergence() -> None:
    """The policy writes one token; the gradients of all six tokens, by their probabilities, are summed up."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, generator=generator).requires_grad_()
    policy, teacher = logits.log_softmax(0), torch.randn(6, generator=generator).log_softmax(0)
    (exact,) = torch.autograd.grad((policy.exp() * (policy - teacher)).sum(), logits, retain_graph=True)
    tables = {"policy": policy.detach(), "reference": teacher}
    expected = torch.zeros(6)
    for token in range(6):

        class Context:
            notes = dict[str, float]()

            def logprobs(self, model: str, groups: list[Group], token: int = token) -> list[list[np.ndarray]]:
                return [[tables[model][token : token + 1].numpy()]]

            def note(self, name: str, value: float) -> None:
                self.notes[name] = value

        ids, prompt = np.array([token], np.int32), np.zeros(2, np.int32)
        drawn: Any = Context()
        groups = Distil().collect([Group("a", prompt, [Completion(ids, logprobs=np.zeros(1, np.float32))])], drawn)
        outputs = Outputs(logprobs=policy[token : token + 1])
        (gradient,) = torch.autograd.grad(
            Distil().loss(outputs, build_batch([groups]))["loss_policy"].sum, logits, retain_graph=True
        )
        expected += policy[token].exp().detach() * gradient
    torch.testing.assert_close(expected, exact)


# -- whole runs


def train(run: Path, model: Path, *more: str, code: int = 0) -> str:
    given = [f"run_dir={run}", f"model.path={model}", *_SETTINGS, *more]
    return cli("train", *given, cwd=ROOT, check_code=code).stderr


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    run = tmp_path_factory.mktemp("distil") / "run"
    train(run, small_model)
    return run


@pytest.mark.slow
def test_the_reverse_divergence_falls_without_a_reward(unbroken: Path) -> None:
    lines = metrics_of(unbroken)
    assert lines[0]["eval/kl"] > 20 and lines[-1]["eval/kl"] < 0.85 * lines[0]["eval/kl"]
    assert not [name for line in lines for name in line if "reward" in name or "win_rate" in name]
    replies = read_groups(unbroken / "rounds" / "0000" / "groups.parquet")[0].completions
    assert all(reply.reward is None and reply.ref_logprobs is not None for reply in replies)


@pytest.mark.slow
def test_the_values_are_those_of_the_teacher(unbroken: Path) -> None:
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    group = read_groups(unbroken / "rounds" / "0000" / "groups.parquet")[0]
    for reply in group.completions:
        ids = torch.from_numpy(np.concatenate([group.prompt_ids, reply.ids])).long()
        with torch.no_grad():
            logprobs = lm(ids[None]).logits[0].log_softmax(-1)
        expected = logprobs[len(group.prompt_ids) - 1 : -1].gather(1, ids[len(group.prompt_ids) :, None])[:, 0]
        np.testing.assert_allclose(reply.ref_logprobs, expected.numpy(), atol=1e-4)
        np.testing.assert_allclose(reply.advantages, reply.ref_logprobs - reply.logprobs, atol=1e-5)


@pytest.mark.slow
def test_killed_and_resumed_it_is_the_same(unbroken: Path, small_model: Path, tmp_path: Path) -> None:
    kill = "+callbacks.kill={_target_: tests.support.killer.Kill, event: pairs_written, step: 4}"
    train(tmp_path / "run", small_model, kill, code=137)
    train(tmp_path / "run", small_model)
    assert_bitwise_equal(tmp_path / "run", unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("more", [["model.lora.rank=4"], ["cluster.processes=2", "zero=3"]], ids=" ".join)
def test_adapters_and_two_processes_have_the_same_teacher(
    more: list[str], unbroken: Path, small_model: Path, tmp_path: Path
) -> None:
    train(tmp_path / "run", small_model, "max_steps=1", *more)
    mine, expected = metrics_of(tmp_path / "run")[1], metrics_of(unbroken)[1]
    assert mine["rollout/kl"] == pytest.approx(expected["rollout/kl"], rel=1e-4)


@pytest.mark.slow
def test_a_reward_may_watch(small_model: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", small_model, "max_steps=1", "eval.replies=true", "reward=tiny")
    assert {"eval/reward", "eval/win_rate", "eval/kl"} <= metrics_of(tmp_path / "run")[-1].keys()


def test_a_teacher_with_another_tokenizer_is_refused_before_a_job_starts(small_model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_tokens(["another"])
    run, other = tmp_path / "teacher", tmp_path / "teacher" / "model"  # a run may be given, as for any model
    tokenizer.save_pretrained(other)
    RunDir(run).job.touch()
    for file in (TINY / "config.json", TINY / "model.safetensors"):
        (other / file.name).symlink_to(file)
    said = train(tmp_path / "run", small_model, f"algo.teacher.path={run}", "dry_run=true", code=USER_ERROR)
    assert f"algo.teacher.path={other}: has another tokenizer than model.path" in said
