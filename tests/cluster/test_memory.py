"""The memory estimate counts weights like transformers, and states like DeepSpeed's estimators."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, open_dict

from psychocounsel.cluster.memory.check import memory_line
from psychocounsel.cluster.memory.fitting import advice
from psychocounsel.cluster.memory.gpu import (
    RUNTIME,
    MemoryEstimate,
    bucket_memory,
    estimate,
    state_parts,
    trained_parameters,
    trained_shape,
)
from psychocounsel.model.shape import Shape, shape_of
from tests.support.composed import check, compose
from tests.support.harness import ROOT, small_lm

_CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "mistral": {"num_key_value_heads": 4, "tie_word_embeddings": False, "head_dim": 24},
    "qwen3": {"num_key_value_heads": 8, "tie_word_embeddings": True, "head_dim": 32},
}
_COMMON = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "intermediate_size": 320,
    "num_attention_heads": 8,
    "vocab_size": 999,
}


@pytest.mark.parametrize("kind", _CONFIGS)
def test_weights_are_those_of_the_model(kind: str) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    config = AutoConfig.for_model(kind, **_COMMON, **_CONFIGS[kind])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        config.num_labels = 1
        scorer = AutoModelForSequenceClassification.from_config(config)
    shape = Shape.of(config.to_dict())
    norms = 2 * 3 * shape.head if kind == "qwen3" else 0  # of queries and keys, in every layer: left out
    assert shape.parameters == model.num_parameters() - norms
    assert shape.scorer == scorer.num_parameters() - norms
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert shape.adapter(4, "all-linear") == adapted.num_parameters(only_trainable=True)


@pytest.mark.parametrize("nodes", [1, 4])
@pytest.mark.parametrize("offload", [False, True])
def test_states_are_those_of_deepspeeds_estimators(nodes: int, offload: bool) -> None:
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as zero3
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as zero2

    total, largest = 8_030_000_000, 525_000_000
    _, expected = zero2(total, 8, nodes, cpu_offload=offload)
    assert sum(state_parts(total, largest, 2, 8 * nodes, offload).values()) == pytest.approx(expected, rel=1e-6)
    for parameters in (False, True):
        _, expected, _ = zero3(total, largest, 8, nodes, cpu_offload=offload, cpu_offload_params=parameters)
        parts = state_parts(total, largest, 3, 8 * nodes, offload, parameters and offload)
        assert sum(parts.values()) == pytest.approx(expected, rel=1e-6)


def test_a_model_that_is_too_large_gets_advice_that_fits() -> None:
    llama = {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336, "num_attention_heads": 32}
    shape = Shape.of({**llama, "num_key_value_heads": 8, "vocab_size": 128256})
    assert shape.parameters == pytest.approx(8.03e9, rel=1e-3)
    config = check(compose([]))
    assert estimate(shape, config, 1).total > 130e9
    fitting = advice(shape, config, 8, 80)
    assert fitting[0] == "zero.stage=3 model.gradient_checkpointing=true"
    assert advice(shape, config, 1, 4) == []
    more = check(compose(["zero='3'", "model.gradient_checkpointing=true"]))
    assert estimate(shape, more, 8).total < 80e9


# -- everything that is resident

_TINY = ROOT / "psychocounsel" / "model" / "shipped"


def _weights(name: str) -> int:
    """Return the number of weights that the shipped model has on disk."""
    from safetensors import safe_open

    with safe_open(_TINY / name / "model.safetensors", "pt") as file:
        return sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118


def _tiny(*overrides: str) -> tuple[Shape, DictConfig]:
    config = check(compose(["cluster=slurm", *overrides]))
    shape = trained_shape(config)
    assert shape is not None
    return shape, config


def _estimate(*overrides: str, gpus: int = 4) -> MemoryEstimate:
    return estimate(*_tiny(*overrides), gpus)


def test_shipped_models_are_counted_to_the_weight() -> None:
    shape, config = _tiny("algo=ppo")
    assert shape.parameters == _weights("tiny")
    reward = shape_of(config, "reward", config.reward.path)
    assert reward is not None and reward.scorer == _weights("tiny_reward")


@pytest.mark.parametrize(
    ("overrides", "models"),
    [
        (["algo=dpo"], ["tiny"]),
        (["algo=ppo"], ["tiny", "tiny_reward"]),
        (["algo=ppo", "algo.critic=shared"], ["tiny"]),
        (["algo=reward", "model.path=builtin:tiny_reward"], ["tiny_reward"]),
    ],
)
def test_checkpoints_are_of_all_that_is_trained(overrides: list[str], models: list[str]) -> None:
    shape, config = _tiny(*overrides)
    assert trained_parameters(shape, config) == sum(map(_weights, models))


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_what_stands_beside_the_policy_differs_by_its_bytes(stage: int) -> None:
    policy, reward = _weights("tiny"), _weights("tiny_reward")
    zero = f"zero='{stage}'"
    offline, simpo = _estimate("algo=dpo", zero), _estimate("algo=simpo", zero)
    assert offline.held == simpo.held, "the values of the reference are computed by the policy, before it changes"
    online, ppo = _estimate("algo=online_dpo", zero), _estimate("algo=ppo", zero)
    reference = 2 * policy / (4 if stage == 3 else 1)
    assert sum(online.held.values()) - sum(offline.held.values()) == reference + 2 * reward
    shape, _ = _tiny()
    stays, _ = bucket_memory(reward, reward, shape.largest, stage, 4, 500_000_000)
    critic = sum(state_parts(reward, shape.largest, stage, 4).values()) + stays
    assert sum(ppo.held.values()) - sum(online.held.values()) == pytest.approx(critic), "with buffers of its own"
    assert ppo.training["activations"] == 2 * online.training["activations"], "of two models of one shape"
    assert _estimate("algo=online_simpo", zero).held.keys() - {"gathered weights and buckets"} == {
        "states",
        "reward tiny",
    }


def test_only_a_reference_that_is_a_model_of_its_own_counts() -> None:
    assert "reference" in _estimate("algo=grpo").held
    given = ["algo=distil", "algo.teacher.path=builtin:tiny_dpo", "model.lora.rank=8"]
    assert _estimate(*given).held["reference"] == 2 * _weights("tiny_dpo"), "a teacher counts beside adapters, too"
    for typed in (["algo.reference=round"], ["algo.kl_weight=0"]):
        assert "reference" not in _estimate("algo=grpo", *typed).held
    adapter = _estimate("algo=grpo", "model.lora.rank=8").held
    assert adapter.keys() == {"states", "reward tiny"}
    assert adapter["states"] == 2 * _weights("tiny") + 18 * _tiny()[0].adapter(8, "all-linear")
    assert _estimate("algo=grpo", "model.dtype=fp32").held["reference"] == 4 * _weights("tiny")


def test_reward_models_count_where_they_score(tmp_path: Path) -> None:
    one = 2 * _weights("tiny_reward")
    several = ["reward=ensemble", "reward.members=[{_target_: psychocounsel.reward.local_model.LocalReward, name: a,"]
    several[1] += " path: builtin:tiny_reward}, {_target_: psychocounsel.reward.local_model.LocalReward, name: b,"
    several[1] += " path: builtin:tiny_reward, dtype: fp32}]"
    held = _estimate("algo=grpo", *several).held
    assert (held["reward a"], held["reward b"]) == (one, 2 * one)
    served = ["reward=vllm_server", "reward.addresses=[http://there:8000]", "reward.path=builtin:tiny_reward"]
    assert _estimate("algo=grpo", *served).held.keys() == {"states", "reference"}
    (tmp_path / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{_TINY / "tiny_reward"}"}}')
    adapted = _estimate("algo=grpo", "reward=local", f"reward.path={tmp_path}").held
    assert adapted[f"reward {tmp_path.name}"] == one
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"architectures": ["Unlike"]}')
    found = _estimate("algo=ppo", "reward=local", f"reward.path={other}")
    assert found.unknown == ["reward other", "critic"] and "reward other" not in found.held


def test_a_reward_model_in_training_has_no_output_layer() -> None:
    found = _estimate("algo=reward", gpus=1)
    assert found.held == {"states": 18 * _weights("tiny_reward")}
    assert found.training.keys() == {"activations"}


@pytest.mark.parametrize("stage", [0, 2])
def test_keys_and_values_are_those_of_a_cache(stage: int) -> None:
    from transformers import DynamicCache

    lm = small_lm("llama", dtype=torch.bfloat16)
    cache, rows, length = DynamicCache(config=lm.config), 6, 64
    with torch.no_grad():
        lm(torch.zeros(rows, length, dtype=torch.long), past_key_values=cache, use_cache=True)
    there = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
    _, config = _tiny("algo=online_dpo", f"zero='{stage}'", "max_length=64", "rollout.batch_size=7", "algo.samples=3")
    shape = Shape.of(lm.config.to_dict())
    found = estimate(shape, config, 1).writing
    assert found["keys and values"] == there, "two prompts of three replies are written at once"
    assert shape.cached() * 2 * rows * length == there


def test_training_and_writing_take_turns() -> None:
    given = ["algo=online_dpo", "rollout.batch_size=512"]
    small, large = _estimate(*given), _estimate(*given, "rollout.max_tokens=400", "max_length=4096", "zero='2'")
    for found in (small, large):
        held, training, writing = (sum(part.values()) for part in (found.held, found.training, found.writing))
        assert found.total == pytest.approx(held + max(training, writing) + 1.5e9)


def test_vllm_has_its_share_of_the_gpu_while_it_writes() -> None:
    def written(*overrides: str) -> dict[str, float]:
        given = ["algo=online_dpo", *overrides]
        shape, config = _tiny(*(text for text in given if not text.startswith("rollout")))
        with open_dict(config):
            config.rollout = compose(["cluster=slurm", *given]).rollout  # checking it would ask for vLLM
        return estimate(shape, config, 4).writing

    given = ["rollout=vllm", "rollout.gpu_memory=0.3"]
    graphs = 51 * (1 << 20) * (1 + _tiny()[0].layers / 2)
    assert written(*given, "cluster.gpu_memory_gb=80") == {"engine of vLLM": pytest.approx(24e9 - graphs)}
    assert written(*given, "cluster.gpu_memory_gb=80", "rollout.eager=true") == {"engine of vLLM": pytest.approx(24e9)}
    assert written(*given) == {"engine of vLLM": 2 * _weights("tiny")}
    assert written("rollout=vllm", "cluster.gpu_memory_gb=80") == {"engine of vLLM": pytest.approx(32e9 - graphs)}
    least = 2 * _weights("tiny") + 16 * 2048 * 2 * _tiny()[0].cached()  # the engine takes what training leaves free
    assert written("rollout=vllm", "rollout.offload_idle=true", "max_length=2048") == {
        "engine of vLLM, at least": pytest.approx(least)
    }
    assert written("rollout=vllm_server") == {}, "servers have GPUs of their own"


def _published(*overrides: str) -> DictConfig:
    """Return the configuration of a run of a published model with 8 billion weights. No file of the model exists here."""
    return _tiny("model=llama3_1_8b", *overrides)[1]


def test_what_rests_leaves_room_for_replies_and_for_an_engines_copy() -> None:
    """An 8B model at stage 2 on 8 GPUs has 18 bytes per weight.

    Of these, 12 are partitioned and leave the GPU during generation. The 2 bytes that vLLM has copied leave afterwards.
    """
    given = ["algo=grpo", "reward=tiny", "zero='2'", "rollout.offload_idle=true", "rollout.max_tokens=64"]
    config = _published(*given)
    shape = trained_shape(config)
    assert shape is not None
    with open_dict(config):
        config.rollout = compose(
            ["algo=grpo", "rollout=vllm", "rollout.offload_idle=true", "rollout.gpu_memory=0.9"]
        ).rollout
        config.cluster.gpu_memory_gb = 80
    found = estimate(shape, config, 8)
    weights = 2 * shape.parameters
    assert found.resting == pytest.approx({"states": 12 * shape.parameters / 8, "policy's weights": weights})
    assert found.copying == weights
    held, writing = sum(found.held.values()), sum(found.writing.values())
    assert writing > 70e9 and found.total == pytest.approx(held + writing - sum(found.resting.values()) + RUNTIME)
    config.rollout.gpu_memory = 0.01  # the engine is its weights alone: the most is needed when both have them
    small = replace(estimate(shape, config, 8), training={}, frozen={})
    assert small.total == pytest.approx(held + weights - found.resting["states"] + RUNTIME)


def test_a_dry_run_shows_every_part_and_what_would_fit() -> None:
    ppo = ["algo=ppo", "algo.critic=policy", "reward=tiny"]
    line = memory_line(_published(*ppo, "zero='3'"), 8, 90.0)
    for part in ("of 90 GB (weights", "reference 2.0", "critic", "tiny 0.0", "to train: activations", "replies: keys"):
        assert part in line
    assert "gathered weights and buckets 8.2" in line, "of two engines: 4 bytes x 5e8, and 2 bytes x 1.05e9 weights"
    assert "MORE THAN" not in line
    line = memory_line(_published(*ppo, "zero='3'"), 8, 59.0)
    assert "MORE THAN cluster.gpu_memory_gb=59. This would fit: zero.offload_optimizer=true" in line
    shape, config = trained_shape(_published(*ppo)), _published(*ppo, "zero='2'")
    assert shape is not None
    assert advice(shape, config, 8, 90.0)[0] == "rollout.offload_idle=true"
    assert advice(shape, config, 8, 75.0)[0] == "zero.stage=3"
    config = _published("algo=online_simpo", "reward=tiny", "rollout.batch_size=4096", "zero='3'")
    assert advice(shape, config, 8, 60.0)[0] == "rollout.batch_size=16"


def test_frozen_models_that_wait_take_turns_with_training() -> None:
    given = ["algo=grpo", "zero='2'"]
    there, away = _estimate(*given), _estimate(*given, "rollout.offload_idle=true")
    frozen = {"reference": 2 * _weights("tiny"), "reward tiny": 2 * _weights("tiny_reward")}
    assert away.frozen == frozen and {**away.held, **frozen} == there.held
    assert there.total - away.total == sum(frozen.values()), "training needs more than asking them does"


@pytest.mark.parametrize(("stage", "stays", "backward"), [(0, 0, 0.4), (1, 0, 0.4), (2, 0, 2.6), (3, 2.2, 0.4)])
def test_buckets_are_as_large_as_deepspeed_makes_them(stage: int, stays: float, backward: float) -> None:
    """The expected sizes follow DeepSpeed's code for a model of 1e8 weights in one parameter, and buckets of 5e8 elements.

    Stage 2 has two buffers, because it reduces one while the other is filled.
    """
    found = bucket_memory(1e8, 1e8, 1e8, stage, 4, 500_000_000)
    assert found == (pytest.approx(stays * 1e9), pytest.approx(backward * 1e9))


def test_a_larger_gradient_than_the_bucket_goes_alone() -> None:
    """The embedding of an 8B model has 5.25e8 weights: stage 2 casts it whole, stage 3 casts it and splits it."""
    large, whole = 525_336_576, 8.03e9
    assert bucket_memory(whole, whole, large, 2, 8, 500_000_000)[1] == pytest.approx(2e9 + 6 * large)
    assert bucket_memory(whole, whole, large, 3, 8, 500_000_000) == (pytest.approx(4.1e9), pytest.approx(8 * large))
