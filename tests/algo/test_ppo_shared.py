"""PPO with a value head on the policy's trunk: its updates, its state and its model; and a critic of its own in two lanes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from psychocounsel.algo.ppo import PPO
from psychocounsel.data.group import Group
from psychocounsel.engine.step import metrics_of as metrics_of_tally
from psychocounsel.engine.zero import Engine
from psychocounsel.model.packed import Critic
from tests.engine.test_resume import assert_bitwise_equal
from tests.support.harness import ROOT, check, cli, compose, make_stepper, metrics_of, random_groups, small_lm

STEPS = 3


def learned_from(seed: int) -> list[Group]:
    """Return groups with all inputs of PPO's loss.

    Every third reply's old log-probabilities are far off, so that some ratios are clipped.
    """
    groups, rng = random_groups(5, seed=seed), np.random.default_rng(seed)
    for number, completion in enumerate(completion for group in groups for completion in group.completions):
        size = len(completion.ids)
        completion.logprobs = (rng.normal(-5.5, 0.3, size) + (number % 3 == 0)).astype(np.float32)
        completion.values, completion.returns, completion.advantages = rng.normal(size=(3, size)).astype(np.float32)
    return groups


def padded_losses(lm: Any, head: torch.Tensor, groups: list[Group], algorithm: PPO) -> tuple[torch.Tensor, ...]:
    """Return mean losses of policy and values from one padded batch with a row for each reply."""
    replies = [(group.prompt_ids, completion) for group in groups for completion in group.completions]
    width = max(len(prompt) + len(completion.ids) for prompt, completion in replies)
    ids, mask = torch.zeros(2, len(replies), width, dtype=torch.long)
    for row, (prompt, completion) in enumerate(replies):
        both = torch.from_numpy(np.concatenate([prompt, completion.ids])).long()
        ids[row, : len(both)], mask[row, : len(both)] = both, 1
    output = lm(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    logprobs, values = output.logits.log_softmax(-1), output.hidden_states[-1] @ head
    policy, critic, count = torch.zeros(()), torch.zeros(()), 0
    for row, (prompt, completion) in enumerate(replies):
        for place, token in enumerate(completion.ids):
            column = len(prompt) + place - 1
            ratio = (logprobs[row, column, token] - completion.logprobs[place]).exp()
            advantage, was = completion.advantages[place], completion.values[place]
            policy = policy - torch.min(
                ratio * advantage, ratio.clamp(1 - algorithm.clip, 1 + algorithm.clip) * advantage
            )
            value = values[row, column]
            near = was + (value - was).clamp(-algorithm.value_clip, algorithm.value_clip)
            gap = completion.returns[place]
            critic = critic + 0.5 * torch.max((value - gap) ** 2, (near - gap) ** 2)
            count += 1
    return policy / count, critic / count


@pytest.mark.usefixtures("in_process_training")
@pytest.mark.parametrize("at_once", [1, 2])
def test_updates_are_those_of_a_plain_loop_with_both_losses(at_once: int) -> None:
    algorithm = PPO(critic="shared", value_weight=0.7, lr=1e-3, critic_lr=5e-3, adam_eps=1e-5, entropy=False)
    stepper = make_stepper(small_lm(), algorithm, budget=90 * at_once, at_once=at_once)
    lm, head = small_lm(), torch.zeros(48, requires_grad=True)
    parameters = list(lm.parameters())
    optimizer = torch.optim.AdamW(
        [{"params": parameters}, {"params": [head], "lr": 5e-3}], lr=1e-3, eps=1e-5, weight_decay=0.0
    )
    for step in range(STEPS):  # the head starts at 0, so its loss reaches the trunk only from the second step
        groups = learned_from(step)
        assert sum(map(len, stepper.plan([group.tokens for group in groups]))) > 1
        mine = metrics_of_tally(stepper.accumulate(groups, train=True)[0])
        norm = stepper.main.step(1e-3)
        losses = padded_losses(lm, head, groups, algorithm)
        (losses[0] + 0.7 * losses[1]).backward()
        expected = torch.nn.utils.clip_grad_norm_([*parameters, head], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        assert (mine["loss_policy"], mine["loss_value"]) == pytest.approx([float(loss) for loss in losses], rel=1e-5)
        assert mine["loss"] == pytest.approx(float(losses[0] + 0.7 * losses[1]), rel=1e-5)
        assert 0 < mine["clip_fraction"] < 1
        assert norm == pytest.approx(float(expected), rel=1e-5)
    ours: Any = stepper.main.module
    torch.testing.assert_close(ours.value_head.weight[0], head, rtol=1e-5, atol=1e-5)
    assert head.abs().max() > 1e-2
    for (name, value), other in zip(ours.lm.named_parameters(), parameters, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.usefixtures("in_process_training")
def test_a_critic_of_its_own_learns_the_same_in_two_lanes() -> None:
    def learn(at_once: int) -> tuple[list[dict[str, float]], list[Any]]:
        algorithm = PPO(critic="policy", lr=1e-3, adam_eps=1e-5)
        stepper = make_stepper(small_lm(), algorithm, budget=90 * at_once, at_once=at_once)
        critic = Critic(small_lm(rewards=True, seed=1), "critic")
        stepper.engines["critic"] = Engine(critic, check(compose([])), algorithm, torch.float32, at_once)
        lines = []
        for step in range(STEPS):
            metrics = metrics_of_tally(stepper.accumulate(learned_from(step), train=True)[0])
            lines.append(metrics | {name: engine.step(1e-3) for name, engine in stepper.engines.items()})
        values = stepper.per_token(learned_from(STEPS), stepper.engines["critic"])
        return lines, [piece for group in values for piece in group]

    (lines, values), (expected, others) = learn(2), learn(1)
    for line, other in zip(lines, expected, strict=True):
        assert line == pytest.approx(other, rel=1e-5, abs=1e-6)
    assert expected[0]["loss_value"] != pytest.approx(expected[-1]["loss_value"], rel=0.01), "the critic learns"
    for mine, other_values in zip(values, others, strict=True):
        np.testing.assert_allclose(mine, other_values, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("in_process_training")
def test_values_alone_are_those_of_the_same_pass() -> None:
    stepper = make_stepper(small_lm(), PPO(critic="shared"))
    policy: Any = stepper.main.module
    torch.nn.init.normal_(policy.value_head.weight)
    groups = random_groups(3)
    alone = stepper.per_token(groups, logprobs=False, values=True)
    ((_, batch),) = stepper.micro_batches(groups)
    with torch.no_grad():
        logprobs, entropy, values = policy(batch, entropy=True, values=True)
        assert torch.equal(logprobs, policy(batch)) and len(entropy) == len(values)
    flat = np.concatenate([piece for group in alone for piece in group])
    assert sorted(flat.tolist()) == sorted(values.tolist()) and flat.std() > 0.1


# -- through the loop

BASE = [
    "algo=ppo",
    "reward=tiny",
    "algo.critic=shared",
    "algo.critic_lr=1e-2",
    "algo.value_weight=0.5",
    "data.limit=200",
]
BASE += [
    "eval.limit=4",
    "max_steps=6",
    "max_length=600",
    "global_batch_size=4",
    "rollout.max_tokens=12",
    "eval.every=0",
]
BASE += ["checkpoint.every=2", "algo.lr=1e-3", "cluster.threads=1"]


def train(run: Path, model: Path, *more: str, code: int = 0) -> str:
    return cli("train", f"run_dir={run}", f"model.path={model}", *BASE, *more, cwd=ROOT, check_code=code).stderr


def state_of(run: Path) -> dict[str, torch.Tensor]:
    """Return the policy's weights in the last checkpoint."""
    return load_file(run / "checkpoints" / "step-000006" / "policy" / "weights-00000.safetensors")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    run = tmp_path_factory.mktemp("shared") / "run"
    train(run, small_model)
    return run


@pytest.mark.slow
def test_the_head_learns_and_stays_out_of_the_model(unbroken: Path, tmp_path: Path) -> None:
    lines = metrics_of(unbroken)
    assert lines[1]["rollout/value"] == 0 != lines[3]["rollout/value"]
    assert abs(lines[1]["ratio"] - 1) < 1e-5 < abs(lines[2]["ratio"] - 1)
    folders = [path.name for path in (unbroken / "checkpoints" / "step-000006").iterdir() if path.is_dir()]
    assert folders == ["policy"], "there is no second engine"
    state = state_of(unbroken)
    assert state["value_head.weight"].abs().max() > 1e-3
    cli("export", str(unbroken), "step=6", f"to={tmp_path / 'six'}", cwd=tmp_path)
    for folder in (unbroken / "model", tmp_path / "six"):
        lm, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(loading.values()), loading
        assert load_file(folder / "model.safetensors").keys() == dict(lm.named_parameters()).keys()
        assert all(torch.equal(value, state[f"lm.{name}"]) for name, value in lm.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "step"), [("step_end", 3), pytest.param("pairs_written", 4, marks=pytest.mark.proof)]
)
def test_killed_anywhere_it_ends_as_the_unbroken_run(
    event: str, step: int, unbroken: Path, small_model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(
        run,
        small_model,
        f"+callbacks.kill={{_target_: tests.support.killer.Kill, event: {event}, step: {step}}}",
        code=137,
    )
    train(run, small_model)
    assert_bitwise_equal(run, unbroken)
    assert torch.equal(state_of(run)["value_head.weight"], state_of(unbroken)["value_head.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("stage", [pytest.param(2, marks=pytest.mark.proof), 3])
def test_two_sharded_processes_train_as_one(stage: int, unbroken: Path, small_model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    partitioned = ["zero.persistence_elements=0"] if stage == 3 else []
    train(run, small_model, "cluster.processes=2", f"zero={stage}", *partitioned)
    for mine, expected in zip(metrics_of(run), metrics_of(unbroken), strict=True):
        alike = {"loss", "loss_value", "grad_norm", "rollout/reward", "rollout/value"} & expected.keys()
        for name in alike:
            assert mine[name] == pytest.approx(expected[name], rel=5e-3, abs=1e-3), name
    assert (
        load_file(run / "model" / "model.safetensors").keys()
        == load_file(unbroken / "model" / "model.safetensors").keys()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "sharding",
    [pytest.param(["zero=0"], marks=pytest.mark.proof), ["zero=3", "cluster.processes=2"]],
    ids=["one", "sharded"],
)
def test_beside_adapters_the_head_is_trained_and_resumed(
    sharding: list[str], small_model: Path, tmp_path: Path
) -> None:
    more = [*sharding, "model.lora.rank=4", "model.lora.dropout=0.2"]
    train(tmp_path / "whole", small_model, *more)
    kill = "+callbacks.kill={_target_: tests.support.killer.Kill, event: step_end, step: 3}"
    train(tmp_path / "killed", small_model, *more, kill, code=137)
    train(tmp_path / "killed", small_model, *more)
    assert_bitwise_equal(tmp_path / "killed", tmp_path / "whole")
    assert metrics_of(tmp_path / "whole")[5]["rollout/value"] != 0
    names = load_file(tmp_path / "whole" / "model" / "adapter_model.safetensors")
    assert names and all(".lora_" in name for name in names)
    cli("export", str(tmp_path / "whole"), "step=6", "merge=true", f"to={tmp_path / 'merged'}", cwd=tmp_path)
    _, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(loading.values()), loading
