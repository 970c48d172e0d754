"""Low-rank adapters: the base is unchanged, only the adapter is saved, and the merged model computes the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from psychocounsel.algo.dpo import DPO
from psychocounsel.data.group import Group
from psychocounsel.engine.step import Stepper
from psychocounsel.engine.zero import Engine
from psychocounsel.errors import UserError
from psychocounsel.model.lora import add_adapter, merged_parameters
from psychocounsel.model.packed import Policy
from psychocounsel.model.reward_head import load_trained_reward_lm
from psychocounsel.model.settings import LoraConfig
from psychocounsel.reward.local_model import LocalScorer
from tests.support.composed import check, compose
from tests.support.harness import TINY, cli, make_stepper, metrics_of, random_groups, small_lm, world

TEXT = torch.tensor([[1, 4, 300, 17, 500, 2, 5, 44, 900, 12, 13, 2]])
pytestmark = pytest.mark.usefixtures("in_process_training")


def adapted_stepper(rank: int = 4) -> Stepper:
    algorithm = DPO(lr=5e-3, warmup=0.0)
    here = world()
    lm, adapter = add_adapter(small_lm(), OmegaConf.structured(LoraConfig(rank=rank)), None)
    config = check(compose([f"model.lora.rank={rank}"]))
    engine = Engine(Policy(lm, "test", adapter), config, algorithm, torch.float32)
    return Stepper(algorithm, {"policy": engine}, here, 4096)


def flat(pieces: list[list[np.ndarray]]) -> np.ndarray:
    return np.concatenate([values for group in pieces for values in group])


def trained(stepper: Stepper, groups: list[Group]) -> Stepper:
    for _ in range(3):
        stepper.accumulate(groups, train=True)
        stepper.main.step(5e-3)
    stepper.main.train(False)
    return stepper


def test_without_its_adapter_a_trained_policy_is_the_base_model() -> None:
    groups = random_groups(6)
    base = flat(make_stepper(small_lm(), DPO()).per_token(groups))
    stepper = trained(adapted_stepper(), groups)
    with stepper.main.module.adapters_off():
        off = flat(stepper.per_token(groups))
    on = flat(stepper.per_token(groups))
    np.testing.assert_array_equal(off, base)
    assert np.abs(on - base).max() > 0.01


def test_only_the_adapter_is_trained_and_it_starts_as_nothing() -> None:
    groups = random_groups(6)
    stepper = adapted_stepper()
    base = flat(make_stepper(small_lm(), DPO()).per_token(groups))
    np.testing.assert_array_equal(flat(stepper.per_token(groups)), base)
    original = dict(small_lm().named_parameters())
    trained(stepper, groups)
    for name, parameter in stepper.main.module.lm.named_parameters():
        assert parameter.requires_grad == (".lora_" in name), name
        if ".lora_" not in name:
            assert torch.equal(parameter, original[name.replace(".base_layer", "")]), name


def test_gradients_of_the_adapter_equal_those_of_the_chain_rule() -> None:
    """With W' = W + (alpha/r) B A: dB = (alpha/r) dW' A^T and dA = (alpha/r) B^T dW', dW' by plain training of W'."""
    groups = random_groups(5)
    stepper = trained(adapted_stepper(), groups)  # a step makes B non-zero
    merged = small_lm()
    weights = dict(merged_parameters(stepper.main.module.lm))
    merged.load_state_dict({**merged.state_dict(), **weights})
    plain = make_stepper(merged, DPO())
    stepper.main.train(True)
    ours, theirs = (each.accumulate(groups, train=True)[0]["loss_preference"] for each in (stepper, plain))
    assert ours.sum == pytest.approx(theirs.sum, rel=1e-5)
    scale = 32 / 4
    full = dict(merged.named_parameters())
    layers = {name: part for name, part in stepper.main.module.lm.named_modules() if hasattr(part, "lora_A")}
    assert len(layers) == 21  # seven matrices in each of three layers
    for name, layer in layers.items():
        a, b, gradient = layer.lora_A["default"].weight, layer.lora_B["default"].weight, full[f"{name}.weight"].grad
        assert torch.allclose(b.grad, scale * gradient @ a.T, rtol=1e-3, atol=1e-6), name
        assert torch.allclose(a.grad, scale * b.T @ gradient, rtol=1e-3, atol=1e-6), name


SETTINGS = ["max_steps=3", "global_batch_size=8", "data.limit=32", "eval.limit=8", "eval.every=0", "algo.lr=1e-2"]
SETTINGS += ["model.lora.rank=4"]
SHARDED = ["zero=3", "cluster.processes=2", "zero.persistence_elements=0"]


@pytest.mark.slow
@pytest.mark.parametrize("sharding", [pytest.param([], marks=pytest.mark.proof), SHARDED], ids=["one", "sharded"])
def test_adapter_and_merged_model_are_saved_and_equal(sharding: list[str], tmp_path: Path) -> None:
    cli("train", *SETTINGS, *sharding, "run_dir=run", cwd=tmp_path)
    cli("export", "run", "merge=true", "to=merged", cwd=tmp_path)
    cli("train", *SETTINGS, *sharding, "run_dir=other", "model.lora.merge=true", cwd=tmp_path)
    assert sum(file.stat().st_size for file in (tmp_path / "run" / "model").glob("*.safetensors")) < 1e6
    merged, at_once = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "other/model"))
    base = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    assert merged.keys() == at_once.keys() == dict(base.named_parameters()).keys()
    for name, value in merged.items():
        assert torch.allclose(value, at_once[name], atol=1e-6), name
    with_adapter = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model", dtype=torch.float32)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        logits, expected, before = (model(TEXT).logits for model in (whole, with_adapter, base))
    assert torch.allclose(logits, expected, atol=1e-3)
    assert (logits - before).abs().max() > 0.05


@pytest.mark.slow
def test_quantised_base_trains_an_adapter_that_merges_into_full_weights(tmp_path: Path) -> None:
    """In QLoRA, frozen weights have four bits, the first loss is near the full model's, and the adapter learns."""
    settings = ["algo=simpo", *SETTINGS, "max_steps=6", "algo.lr=3e-3"]
    cli("train", *settings, "model.quantise=nf4", "run_dir=quantised", cwd=tmp_path)
    cli("train", *settings, "run_dir=full", cwd=tmp_path)
    quantised, full = (metrics_of(tmp_path / name) for name in ("quantised", "full"))
    assert quantised[0]["eval/loss"] != full[0]["eval/loss"]
    assert quantised[0]["eval/loss"] == pytest.approx(full[0]["eval/loss"], rel=0.02)
    assert quantised[-1]["loss"] < quantised[1]["loss"] - 0.1
    cli("export", "quantised", "merge=true", cwd=tmp_path)
    merged, base = (
        load_file(tmp_path / "quantised" / "export" / "model.safetensors"),
        load_file(TINY / "model.safetensors"),
    )
    assert {name: value.shape for name, value in merged.items()} == {name: value.shape for name, value in base.items()}


@pytest.mark.slow
@pytest.mark.parametrize("stage", [*(pytest.param(each, marks=pytest.mark.proof) for each in (0, 1)), 3])
def test_adapter_and_head_train_in_bf16(stage: int, tmp_path: Path) -> None:
    settings = [*SETTINGS, "algo=reward", "model.dtype=bf16", "algo.warmup=0", f"zero={stage}", "cluster.processes=2"]
    cli("train", *settings, "checkpoint.every=1", "run_dir=run", cwd=tmp_path)
    cli("export", "run", "step=3", "to=three", cwd=tmp_path)
    lines = metrics_of(tmp_path / "run")
    assert lines[-1]["loss"] < lines[1]["loss"]
    head = load_file(tmp_path / "three" / "adapter_model.safetensors")["base_model.model.score.weight"]
    assert head.isfinite().all() and head.abs().max() > 0.01


@pytest.mark.parametrize(
    ("target", "message"),
    [("lm_head", "shares its weight"), ("embed_tokens", "is an embedding"), ("vproj", "no layer .* is called vproj")],
)
def test_layers_that_share_weights_or_are_not_there_are_refused(target: str, message: str) -> None:
    lora = OmegaConf.structured(LoraConfig(rank=4, targets=["q_proj", target]))
    with pytest.raises(UserError, match=message):
        add_adapter(small_lm(tie_word_embeddings=True), lora, None)


@pytest.mark.slow
def test_reward_model_with_an_adapter_keeps_its_head(tmp_path: Path) -> None:
    settings = [*SETTINGS, "algo=reward"]
    cli("train", *settings, "run_dir=run", cwd=tmp_path)
    cli("export", "run", "merge=true", "to=merged", cwd=tmp_path)
    conversations = [
        [{"role": "user", "content": "I feel alone."}, {"role": "assistant", "content": reply}]
        for reply in ("Since when?", "Stop whining and get up.", "What is the evening like?")
    ]
    adapter, merged = (
        LocalScorer.load(str(tmp_path / name), normalise=True).score(conversations) for name in ("run/model", "merged")
    )
    np.testing.assert_allclose(adapter, merged, atol=1e-4)
    assert np.ptp(adapter) > 0.01
    critic = load_trained_reward_lm(
        OmegaConf.create({"path": f"{tmp_path}/run/model", "revision": None}), torch.float32
    )
    assert all(weight.requires_grad for weight in critic.parameters()), (
        "a critic trains all weights, also of an adapter"
    )
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert loaded.config.num_labels == 1 and loaded.config.std > 0


def test_unknown_targets_are_one_line_and_an_adapter_is_no_base(tmp_path: Path) -> None:
    wrong = cli("train", *SETTINGS, "model.lora.targets=[q_project]", cwd=tmp_path, check_code=2)
    assert "model.lora.targets=['q_project']: " in wrong.stderr and "Traceback" not in wrong.stderr
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "adapter_config.json").write_text("{}")
    adapter = cli("train", "model.path=run/model", "dry_run=true", cwd=tmp_path, check_code=2)
    assert "psychocounsel export run merge=true" in adapter.stderr
