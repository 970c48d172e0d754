"""Defaults by the size of the trained model."""

import json
import shutil
from pathlib import Path

import pytest

from psychocounsel.rundir.run_config import write_config, write_job
from psychocounsel.rundir.trained_runs import plan_training
from tests.support.composed import check, compose
from tests.support.harness import TINY

_SMOLLM2 = {
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30},
    **{"intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152},
    "tie_word_embeddings": True,
}


def rate(*overrides: str) -> float:
    return float(check(compose(["algo=dpo", *overrides])).algo.lr)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return the folder of a model of 135 million weights, without the weights."""
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text(json.dumps(_SMOLLM2))
    return tmp_path / "small"


def test_the_rate_is_that_of_the_size(small: Path, tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "copy")
    tiny, small_rate, large = 3e-4, 2e-5, 5e-7
    assert rate() == rate(f"model.path={tmp_path}/copy") == tiny
    assert rate(f"model.path={small}") == rate("model=smollm2_135m") == rate("model=qwen3_0_6b") == small_rate
    assert rate("model=llama3_2_3b") == rate("model=qwen3_8b") == large
    assert rate("model=local", "model.path=someone/unknown") == large, "the lowest, where the size is unknown"
    assert rate(f"model.path={small}", "algo.lr=7e-6") == 7e-6


def test_adapters_learn_ten_times_as_fast(small: Path) -> None:
    assert rate(f"model.path={small}", "model.lora.rank=8") == pytest.approx(2e-4)
    assert rate("model=llama3_1_8b", "model.lora.rank=64") == pytest.approx(5e-6)


def test_the_critic_keeps_its_rate_beside_adapters_because_it_has_none(small: Path) -> None:
    adapters = ["reward=tiny", "algo.critic=policy", f"model.path={small}", "model.lora.rank=8"]
    ppo = check(compose(["algo=ppo", *adapters])).algo
    assert (ppo.lr, ppo.critic_lr) == (pytest.approx(1e-3), 5e-5)


def test_replies_are_as_long_as_the_model_can_write(small: Path) -> None:
    lengths = [
        check(compose(["algo=grpo", "reward=tiny", *model])).rollout.max_tokens
        for model in ([], [f"model.path={small}"], ["model=qwen3_8b"])
    ]
    assert lengths == [96, 256, 512]


def test_a_model_that_is_not_trained_yet_has_the_size_of_its_start(small: Path, tmp_path: Path) -> None:
    """The first run has its directory, as after `sbatch`; the second one is only planned, as in a study."""
    run = tmp_path / "sft"
    run.mkdir()
    write_config(run, check(compose(["algo=sft", f"model.path={small}"])))
    write_job(run, "psychocounsel.train", 0, [])
    assert rate(f"model.path={run}/model", f"after=[{run}]") == 2e-5
    plan_training(tmp_path / "dpo", f"{run}/model")
    assert rate(f"model.path={tmp_path}/dpo/model", f"after=[{tmp_path}/dpo]") == 2e-5
