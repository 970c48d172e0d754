"""The memory estimate: weights counted as transformers has them, states as DeepSpeed's estimators count them."""

from typing import Any

import pytest
import torch

from psychocounsel.cluster.memory import Shape, advice, estimate, model_states
from psychocounsel.config import check, compose

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
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **_COMMON, **_CONFIGS[kind])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = Shape.of(config.to_dict())
    assert shape.parameters == pytest.approx(model.num_parameters(), rel=1e-3)


@pytest.mark.parametrize("nodes", [1, 4])
@pytest.mark.parametrize("offload", [False, True])
def test_states_are_those_of_deepspeeds_estimators(nodes: int, offload: bool) -> None:
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as zero3
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as zero2

    total, largest = 8_030_000_000, 525_000_000
    _, expected = zero2(total, 8, nodes, cpu_offload=offload)
    assert model_states(total, largest, 2, 8 * nodes, offload) == pytest.approx(expected, rel=1e-6)
    for parameters in (False, True):
        _, expected, _ = zero3(total, largest, 8, nodes, cpu_offload=offload, cpu_offload_params=parameters)
        assert model_states(total, largest, 3, 8 * nodes, offload, parameters and offload) == pytest.approx(
            expected, rel=1e-6
        )


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
