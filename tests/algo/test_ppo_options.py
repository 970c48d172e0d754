"""PPO's options (divergence in the loss, adaptive weight, critic warm-up, early stop): formulas and whole runs."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from psychocounsel.algo.base import Outputs
from psychocounsel.algo.ppo import PPO, adapted, gae
from psychocounsel.data.batch import build_batch
from psychocounsel.errors import USER_ERROR
from psychocounsel.storage.files import read_json
from tests.algo.test_policy_gradient import Context, collected, flat, rollouts, tables
from tests.engine.test_resume import assert_bitwise_equal
from tests.support.harness import ROOT, cli, metrics_of


def test_the_weight_follows_the_controller() -> None:
    for kl, error in ((5.0, -1 / 6), (6.0, 0.0), (6.6, 0.1), (60.0, 0.2), (0.0, -0.2), (-3.0, -0.2)):
        assert adapted(0.3, kl, 6.0, 0.1) == pytest.approx(0.3 * (1 + 0.1 * error))
    weight = 1.0
    for _ in range(2000):  # if the divergence falls as its weight grows, it converges to the target
        weight = adapted(weight, 3.0 / weight, 6.0, 0.1)
    assert 3.0 / weight == pytest.approx(6.0, rel=1e-3)


def test_a_rounds_weight_follows_from_the_round_before() -> None:
    algorithm = PPO(kl_weight=0.3, kl_target=6.0, normalise_rewards=False, whiten=False, gae_lambda=1.0)
    _, first = collected(algorithm)
    assert first.notes["kl_weight"] == 0.3
    difference = [
        float((policy - reference).sum())
        for some in zip(first.tables["policy"], first.tables["reference"], strict=True)
        for policy, reference in zip(*some, strict=True)
    ]
    assert first.notes["kl"] == pytest.approx(np.mean(difference), rel=1e-5)
    groups, second = collected(algorithm, earlier={"kl_weight": 0.2, "kl": 6.3})
    weight = 0.2 * (1 + 0.1 * 0.05)
    assert second.notes["kl_weight"] == pytest.approx(weight)
    policy, reference, values = (second.tables[name][0][0] for name in ("policy", "reference", "values"))
    rewards = -weight * (policy - reference)
    rewards[-1] += groups[0].completions[0].reward
    np.testing.assert_allclose(groups[0].completions[0].advantages, gae(rewards, values, 1.0, 1.0), rtol=1e-4)
    assert "kl_weight" not in collected(PPO())[1].notes
    waits = replace(algorithm, critic_warmup=1)  # the policy has not learned before the second round
    assert collected(waits, earlier={"kl_weight": 0.3, "kl": 0.0})[1].notes["kl_weight"] == 0.3


def test_a_turn_discounts_what_later_turns_earn() -> None:
    ctx = Context(tables(0))
    groups = rollouts(ctx.tables["rollout"])
    sessions = [completion for group in groups for completion in group.completions if len(completion.ids) > 2]
    for session in sessions:  # two turns of the policy, the first with one token, and three tokens of the client
        session.trained = np.array([True, False, False, False, *[True] * (len(session.ids) - 1)])
        session.ids = np.arange(len(session.trained), dtype=np.int32)
        session.turn_rewards = np.array([0.25, session.reward - 0.25], np.float32)
        session.turn_shares = np.array([0.5, 0.5])
    algorithm = PPO(
        kl_weight=0.0, normalise_rewards=False, whiten=False, discount=0.9, turn_discount=0.5, gae_lambda=1.0
    )
    algorithm.collect(groups, ctx)
    assert len(sessions) > 3
    for session in sessions:
        rest = session.trained_tokens - 1
        later = (session.reward - 0.25) * 0.9 ** np.arange(rest - 1, -1, -1)
        expected = [0.25 + 0.5 * 0.9 * later[0], *later]
        np.testing.assert_allclose(session.returns, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("noted", [{}, {"kl_weight": 0.7}])
def test_the_divergence_in_the_loss_is_not_in_the_rewards(noted: dict[str, float]) -> None:
    algorithm = PPO(kl_weight=0.3, kl_in="loss", normalise_rewards=False, whiten=False)
    groups, ctx = collected(algorithm)
    for some, rows in zip(groups, ctx.tables["values"], strict=True):
        for completion, values in zip(some.completions, rows, strict=True):
            rewards = np.zeros(len(values))
            rewards[-1] = completion.reward
            np.testing.assert_allclose(completion.advantages, gae(rewards, values, 1.0, 1.0), rtol=1e-4, atol=1e-6)
    rest: Any = Context({})
    rest.notes = noted
    algorithm.batch_groups(groups, rest)
    old = flat(groups, "logprobs")
    logprobs = (old + 0.2 * torch.randn(old.shape, generator=torch.Generator().manual_seed(1))).requires_grad_()
    batch = build_batch([groups])
    terms = algorithm.loss(Outputs(logprobs=logprobs, values=flat(groups, "values")), batch)
    behind = batch.ref_logprobs - logprobs
    expected = (behind.exp() - behind - 1).sum()
    assert terms["loss_kl"].sum.item() == pytest.approx(expected.item(), rel=1e-5)
    (mine,), (theirs,) = (torch.autograd.grad(each, logprobs) for each in (terms["loss_kl"].sum, expected))
    torch.testing.assert_close(mine, theirs)
    assert (terms["loss_kl"].unit, terms["loss_kl"].engine) == ("tokens", "policy")
    assert terms["loss_kl"].weight == noted.get("kl_weight", 0.3)
    assert "loss_kl" not in PPO().loss(Outputs(logprobs=logprobs, values=flat(groups, "values")), batch)


def test_the_critic_learns_alone_in_the_first_rounds() -> None:
    algorithm = PPO(critic_warmup=2, stop_kl=0.1)
    ctx: Any = Context({})
    for number, learns in ((0, False), (1, False), (2, True)):
        ctx.round = number
        assert algorithm.gets_gradients("policy", ctx) == learns and algorithm.gets_gradients("critic", ctx)
    ctx.peaks = {"approx_kl": 0.2}
    assert not algorithm.gets_gradients("policy", ctx) and not algorithm.moves_weights("policy", ctx)
    assert algorithm.moves_weights("critic", ctx)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["algo.stop_kl=0.1", "algo.passes=1"], "a round is one step"),
        (["algo=grpo", "algo.stop_kl=0.1"], "algo.stop_kl=0.1"),
        (["algo.kl_target=6", "algo.kl_weight=0"], "algo.kl_target=6.0 multiplies algo.kl_weight"),
        (["algo.kl_in=both"], "must be one of reward, loss"),
        (["algo.critic=shared", "algo.critic_warmup=1"], "algo.critic_warmup=1: .* use algo.critic=policy"),
        (["algo.critic_warmup=3", "max_steps=6"], r"algo.critic_warmup=3 \(rounds in this run: at most 3\)"),
        (
            ["algo.critic_warmup=2", "max_steps=6", "algo.passes=1", "algo.prompts_per_round=96"],
            "at most 2",
        ),
        pytest.param(
            ["algo.critic=policy", "model.quantise=nf4", "model.lora.rank=4"],
            "use algo.critic=reward or algo.critic=shared",
            marks=pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes"),
        ),
        (["global_batch_size=1"], "a round has one reply, .* use algo.samples=4"),
        (["algo.kl_gain=5"], "must be less than 5"),
        (["algo.entropy_weight=0.1", "algo.entropy=false"], "use algo.entropy=true"),
        (["rollout.top_p=0.9"], "rollout.top_p=1"),
        (["algo.importance_cap=0"], "must be greater than 0"),
    ],
)
def test_what_cannot_work_is_refused(arguments: list[str], message: str) -> None:
    from psychocounsel.errors import UserError
    from tests.support.composed import check, compose

    with pytest.raises(UserError, match=message) as caught:
        check(compose(["algo=ppo", *arguments]))
    assert "\n" not in str(caught.value)


def test_what_can_work_passes() -> None:
    from tests.support.composed import check, compose

    check(compose(["algo=ppo", "algo.critic_warmup=2", "max_steps=5"]))
    for enough in ("algo.samples=2", "algo.prompts_per_round=2", "algo.normalise_rewards=false"):
        check(compose(["algo=ppo", "global_batch_size=1", enough]))
    check(compose(["algo=ppo", "algo.stop_kl=0.1", "algo.kl_target=6", "algo.importance_cap=2", "algo.kl_in=loss"]))


# -- through the loop

BASE = [
    "algo=ppo",
    "reward=tiny",
    "algo.critic=policy",
    "data.limit=200",
    "eval.limit=4",
    "max_steps=6",
    "max_length=600",
]
BASE += ["global_batch_size=4", "rollout.max_tokens=12", "eval.every=0", "checkpoint.every=2", "algo.lr=1e-3"]
BASE += ["cluster.threads=1", "algo.passes=3", "algo.stop_kl=1e-9", "algo.kl_target=0.01", "algo.kl_in=loss"]
BASE += ["algo.importance_cap=0.5", "algo.entropy_weight=0.01"]


def train(run: Path, model: Path, *more: str, code: int = 0) -> str:
    return cli("train", f"run_dir={run}", f"model.path={model}", *BASE, *more, cwd=ROOT, check_code=code).stderr


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    run = tmp_path_factory.mktemp("options") / "run"
    train(run, small_model)
    return run


def test_each_option_does_what_it_says(unbroken: Path) -> None:
    lines = metrics_of(unbroken)
    assert [line.get("skipped_steps", 0) for line in lines[1:]] == [0, 1, 2, 2, 3, 4]
    assert ["grad_norm" in line for line in lines[1:]] == [True, True, False] * 2, (
        "the third step computes no gradients"
    )
    for first, second, third in (lines[1:4], lines[4:7]):
        assert abs(first["ratio"] - 1) < 1e-5 < abs(second["ratio"] - 1), "the first step has moved the policy"
        assert (
            third["ratio"] == pytest.approx(second["ratio"], abs=0.02) and third["loss_value"] != second["loss_value"]
        )
    assert lines[1]["rollout/kl_weight"] == 0.05 and lines[4]["rollout/kl_weight"] == pytest.approx(0.05 * 0.98)
    assert lines[1]["rollout/logprob_difference_mean"] < lines[1]["rollout/logprob_difference_max"] < 1e-3
    assert lines[1]["rollout/importance"] == 0.5
    assert 0 < lines[1]["entropy"] < np.log(4096)
    loop = read_json(unbroken / "checkpoints" / "step-000006" / "loop.json")
    assert (loop["round"], loop["minibatch"], loop["skipped"]) == (1, 3, 4) and loop["peaks"]["approx_kl"] > 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "step"),
    [pytest.param("step_end", 3, marks=pytest.mark.proof), ("pairs_written", 3)],
)
def test_killed_in_the_middle_of_a_round_it_rests_as_long(
    event: str, step: int, unbroken: Path, small_model: Path, tmp_path: Path
) -> None:
    kill = f"+callbacks.kill={{_target_: tests.support.killer.Kill, event: {event}, step: {step}}}"
    train(tmp_path / "run", small_model, kill, code=137)
    train(tmp_path / "run", small_model)
    assert_bitwise_equal(tmp_path / "run", unbroken)


@pytest.mark.slow
def test_two_processes_train_as_one_and_rest_together(unbroken: Path, small_model: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", small_model, "cluster.processes=2", "zero=2")
    names = {
        "skipped_steps",
        "rollout/kl_weight",
        "loss_value",
        "entropy",
        "rollout/reward",
        "rollout/explained_variance",
    }
    for mine, expected in zip(metrics_of(tmp_path / "run"), metrics_of(unbroken), strict=True):
        for name in names & expected.keys():
            assert mine[name] == pytest.approx(expected[name], rel=5e-3, abs=1e-3), name


@pytest.mark.slow
def test_in_warm_up_the_policy_stays_and_the_critic_learns(small_model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = ["algo.critic_warmup=2", "max_steps=3", "algo.passes=1", "algo.stop_kl=null", "algo.critic_lr=1e-2"]
    train(run, small_model, *more, "checkpoint.keep_last=2")
    state = run / "checkpoints" / "step-000002" / "policy" / "weights-00000.safetensors"
    after, trained = load_file(state), load_file(run / "model" / "model.safetensors")
    for name, value in load_file(small_model / "model.safetensors").items():
        assert torch.equal(after[f"lm.{name}"], value) and not torch.equal(trained[name], value)
    lines = metrics_of(run)
    assert [line.get("skipped_steps") for line in lines] == [None, 1, 2, 2]
    assert lines[2]["rollout/value"] != lines[1]["rollout/value"] == 0


def test_a_run_of_warm_up_alone_is_refused(small_model: Path, tmp_path: Path) -> None:
    more = ["algo.critic_warmup=2", "max_steps=null", "data.limit=8", "epochs=1", "algo.stop_kl=null"]
    assert "algo.critic_warmup=2 (rounds in this run: at most 1)" in train(
        tmp_path / "run", small_model, *more, code=USER_ERROR
    )


@pytest.mark.slow
def test_a_round_whose_past_is_gone_is_refused(small_model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    touch = "+callbacks.touch={_target_: tests.support.killer.Touch, event: step_end, step: 3}"
    train(run, small_model, touch, code=75)
    (run / "rounds" / "0000" / "collected.json").unlink()
    assert "has no kl_weight" in train(run, small_model, code=USER_ERROR)
