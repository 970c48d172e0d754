"""Settings that fit into memory: published sizes, advice, `zero=auto`, and the refusal when a run starts."""

import itertools
import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel.cluster.memory.check import keep_chosen, memory_line, refuse_too_large
from psychocounsel.cluster.memory.fitting import advice, choose, fits, with_values
from psychocounsel.cluster.memory.gpu import estimate, trained_shape
from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.model.shape import Shape, published
from psychocounsel.rundir.run_config import read_config
from tests.support.composed import check, compose
from tests.support.harness import ROOT, cli

_ON_EIGHT = ["cluster=slurm", "cluster.gpus_per_node=8", "cluster.gpu_memory_gb=80"]


def _config(*overrides: str) -> DictConfig:
    """Return a checked configuration. vLLM is set after the check, because it need not be installed here."""
    composed = compose([*_ON_EIGHT, *overrides])
    if "vllm" not in str(OmegaConf.select(composed, "rollout._target_")).lower():
        return check(composed)
    config = check(compose([*_ON_EIGHT, *(text for text in overrides if not text.startswith("rollout")), "rollout=hf"]))
    with open_dict(config):
        config.rollout = composed.rollout
    return config


def _shape(config: DictConfig) -> Shape:
    shape = trained_shape(config)
    assert shape is not None
    return shape


# -- published sizes


@pytest.mark.parametrize("group", ["model", "reward"])
def test_every_preset_of_a_hub_model_has_its_size(group: str) -> None:
    for file in sorted((ROOT / "conf" / group).glob("*.yaml")):
        path = str(OmegaConf.select(OmegaConf.load(file), "path", default="", throw_on_missing=False))
        if "/" in path:
            assert published(path), f"{file.name}: add {path} to psychocounsel/model/shape.py"


@pytest.mark.parametrize(
    ("path", "weights"),
    [  # as their cards on the hub count them
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
        ("meta-llama/Llama-3.2-3B-Instruct", 3_212_749_824),
        ("Qwen/Qwen3-8B", 8_190_735_360),
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("HuggingFaceTB/SmolLM2-1.7B-Instruct", 1_711_376_384),
        ("HuggingFaceTB/SmolLM2-360M-Instruct", 361_821_120),
    ],
)
def test_published_sizes_give_the_published_counts(path: str, weights: int) -> None:
    shape = Shape.of(published(path) or {})
    norms = 2 * shape.layers * shape.head if path.startswith("Qwen/Qwen3") else 0  # of queries and keys: left out
    assert shape.parameters == weights - norms


def test_a_config_that_is_here_wins_over_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", f"{tmp_path}/hub")
    hub = tmp_path / "hub" / "models--Qwen--Qwen3-0.6B"
    (hub / "refs").mkdir(parents=True)
    (hub / "refs" / "main").write_text("abc")
    (folder := hub / "snapshots" / "abc").mkdir(parents=True)
    config = _config("model=qwen3_0_6b", f"paths.cache={tmp_path}")
    assert _shape(config).layers == 28, "a folder without config.json tells nothing"
    (folder / "config.json").write_text(json.dumps({**(published("Qwen/Qwen3-0.6B") or {}), "num_hidden_layers": 5}))
    assert _shape(config).layers == 5


def test_where_nothing_is_known_one_line_says_so() -> None:
    said = memory_line(_config("model=local", "model.path=nobody/nothing"), 8, 80.0)
    assert said == "nothing: memory unknown, because the config.json of model.path=nobody/nothing is not here"


def test_a_dry_run_needs_no_weights(tmp_path: Path) -> None:
    given = ["experiment=paper_dpo_iter_8b", "rollout=hf", "dry_run=true", f"paths.cache={tmp_path}/cache"]
    said = cli("train", *given, cwd=tmp_path).stdout
    assert "llama3_1_8b: zero=auto is chosen when the run starts, on 8 GPUs of 40 GB: zero.stage=" in said
    assert "rows unchecked: model.path=meta-llama/Llama-3.1-8B-Instruct is not in" in said
    fetch = f"psychocounsel prepare experiment=paper_dpo_iter_8b rollout=hf paths.cache={tmp_path}/cache"
    assert f"first run `{fetch}`" in said


# -- experiments of 8B


@pytest.mark.parametrize(
    "name", ["paper_dpo_iter_8b", "online_dpo_8b", "ppo_8b", "grpo_8b", "paper_dpo_8b", "paper_reward_8b"]
)
def test_experiments_of_8b_fit_eight_gpus_of_80_gb(name: str) -> None:
    config = _config(f"experiment={name}")
    config = with_values(config, choose(_shape(config), config, 8, 80.0))
    assert 20e9 < estimate(_shape(config), config, 8).total < 80e9
    assert "MORE THAN" not in memory_line(config, 8, 80.0)
    refuse_too_large(config, 8, 80.0)
    with pytest.raises(UserError, match="needs about .* GB on each of 2 GPUs, which have 40"):
        refuse_too_large(config, 2, 40.0)


# ZeRO stage on 8 GPUs of 40, 80 and 141 GB; +: activations are recomputed, o: optimizer in host memory, p: parameters, too
_CHOSEN = {
    "paper_dpo_8b": "3+ 2 1",
    "paper_reward_8b": "3+ 2 1",
    "simpo_llama3_base": "3+ 2 1",
    "simpo_llama3_instruct": "3+ 2 1",
    "simpo_llama3_instruct_v2": "3+ 2 1",
    "paper_dpo_3b": "2 1 1",
    "paper_reward_3b": "2 1 1",
    "paper_dpo_iter_3b": "3 1 1",
    "paper_dpo_iter_8b": "3+ 2 1",
    "online_dpo_8b": "3+ 2 1",
    "grpo_8b": "3+ 2 1",
    "ppo_8b": "3op+ 3+ 2",
}


@pytest.mark.parametrize(
    "name",
    sorted({file.stem for file in (ROOT / "conf" / "experiment").glob("*.yaml")} - {"judge", "online_dpo_8b_async"}),
)
def test_presets_get_the_fastest_setting_that_fits(name: str) -> None:
    config = _config(f"experiment={name}", *(["reward=tiny"] if name == "paper_dpo_iter_3b" else []))
    shape, words = _shape(config), []
    for limit in (40.0, 80.0, 141.0):
        values = choose(shape, config, 8, limit)
        assert fits(shape, with_values(config, values), 8, limit)
        stage, optimizer, parameters, recomputes = values.values()
        words.append(f"{stage}{'o' * optimizer}{'p' * parameters}{'+' * recomputes}")
    assert " ".join(words) == _CHOSEN[name]


def test_a_dry_run_says_what_auto_chooses_and_why() -> None:
    config = _config("experiment=paper_dpo_8b")
    key = "model.gradient_checkpointing"
    said = [memory_line(config, 8, limit).partition("; auto chooses ")[2] for limit in (40.0, 80.0)]
    assert said[0] == f"zero.stage=3 {key}=true, because all activations would need more than 36 GB"
    assert said[1] == f"zero.stage=2 {key}=false, the first with all activations in at most 72 GB"
    assert memory_line(config, 8, None) == (
        f"llama3_1_8b: zero=auto is chosen when the run starts, on 8 GPUs of 40 GB: zero.stage=3 {key}=true, "
        f"80 GB: zero.stage=2 {key}=false, 141 GB: zero.stage=1 {key}=false"
    )


# -- advice


@cache
def _large(name: str) -> DictConfig:
    given = [*name.split(), "model=llama3_1_8b", "model.gradient_checkpointing=false", "micro_batch_tokens=8192"]
    return _config(*given, *(["reward=psychocounsel_8b"] if name in ("algo=ppo", "algo=grpo rollout=vllm") else []))


@pytest.mark.parametrize("limit", [24.0, 40.0, 60.0, 80.0])
@pytest.mark.parametrize("gpus", [1, 2, 8])
@pytest.mark.parametrize("name", ["algo=dpo", "algo=ppo", "algo=reward", "algo=grpo rollout=vllm"])
def test_what_is_advised_fits_once_it_is_typed(name: str, gpus: int, limit: float) -> None:
    config = _large(name)
    assert not fits(_shape(config), config, gpus, limit)
    for typed in advice(_shape(config), config, gpus, limit):
        pairs = (each.partition("=") for each in typed.split())
        changed = with_values(config, {key: OmegaConf.create(f"value: {text}").value for key, _, text in pairs})
        assert fits(_shape(config), changed, gpus, limit)


# -- zero=auto


def test_auto_is_the_first_stage_that_fits() -> None:
    config = _config("model=llama3_1_8b", "zero=auto", "model.gradient_checkpointing=true")
    shape = _shape(config)
    chosen = [choose(shape, config, 8, limit)["zero.stage"] for limit in (120.0, 80.0, 45.0, 35.0)]
    assert chosen == [1, 1, 2, 3]
    for limit, gpus in itertools.product((30.0, 45.0, 80.0, 141.0), (1, 2, 8)):
        values = choose(shape, config, gpus, limit)
        smaller = [stage for stage in range(values["zero.stage"]) if (stage == 0) == (gpus == 1)]
        for stage in smaller if not values["zero.offload_optimizer"] else []:
            assert not fits(shape, with_values(config, {"zero.stage": stage}), gpus, limit)
    assert choose(shape, config, 0, 0.0)["zero.stage"] == 0, "on CPU"


def test_auto_keeps_what_is_typed_beside_it() -> None:
    given = ["zero=auto", "model.gradient_checkpointing=true"]
    config = _config("model=llama3_1_8b", *given, "zero.offload_optimizer=true", "zero.bucket_elements=1000")
    values = choose(_shape(config), config, 8, 80.0)
    assert values == {"zero.stage": 2, "zero.offload_optimizer": True, "zero.offload_parameters": False}
    config = _config("model=local", "model.path=nobody/nothing", "zero=auto")
    with pytest.raises(UserError, match="zero=auto: the size of model.path=nobody/nothing is unknown; give zero=0"):
        choose(trained_shape(config), config, 8, 80.0)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_parameters_that_cannot_be_offloaded_are_refused_before_a_stage_is_chosen() -> None:
    given = ["model.quantise=nf4", "model.lora.rank=4", "zero=auto", "zero.offload_parameters=true", "cluster=slurm"]
    with pytest.raises(UserError, match="offload_parameters=true, which needs zero=3: quantised weights are not"):
        check(compose(given))


def test_gradient_checkpointing_is_left_out_where_the_run_fits_without() -> None:
    """Without it, a run may fill 0.9 of a GPU. All stages without host memory are tried before gradient checkpointing."""
    config = _config("model=llama3_1_8b", "zero='1'", "micro_batch_tokens=8192")
    shape, key = _shape(config), "model.gradient_checkpointing"
    without = estimate(shape, with_values(config, {key: False}), 8).total / 1e9
    assert choose(shape, config, 8, without / 0.9 + 1) == {key: False}
    assert choose(shape, config, 8, without / 0.9 - 1) == {key: True}
    assert choose(shape, config, 0, 0.0) == {key: True}, "on CPU"
    small = _config("model.gradient_checkpointing=auto")
    assert choose(_shape(small), small, 0, 0.0) == {key: False}, "the shipped model on CPU"
    free = _config("model=llama3_1_8b", "zero=auto", "micro_batch_tokens=8192")
    limits = [200.0, 120.0, 100.0, 80.0, 40.0]
    chosen = [choose(shape, free, 8, limit) for limit in limits]
    assert [(each["zero.stage"], each[key]) for each in chosen] == [
        (1, False),
        (2, False),
        (3, False),
        (1, True),
        (3, True),
    ]
    assert memory_line(config, 8, 200.0).endswith(
        f"; auto chooses {key}=false, the first with all activations in at most 180 GB"
    )
    assert f"; {key}=auto is counted as true; it becomes false if memory allows" in memory_line(config, 8, None)


def test_what_was_chosen_is_kept_and_refused_where_it_cannot_fit() -> None:
    config, before = _config("model=llama3_1_8b", "zero=auto"), _config("model=llama3_1_8b", "zero='2'")
    keep_chosen(config, before)
    assert config.zero.stage == 2
    refuse_too_large(config, 8, 80.0)
    with pytest.raises(
        UserError, match=r"zero.stage=2 needs about .* each of 4 GPUs, which have 48. This would fit: zero"
    ):
        refuse_too_large(config, 4, 48.0)
    typed = _config("model=llama3_1_8b", "zero='1'")
    keep_chosen(typed, before)
    assert typed.zero.stage == 1, "a typed stage is never changed"


@pytest.mark.slow
def test_auto_is_recorded_when_a_run_starts_and_kept(tmp_path: Path) -> None:
    given = ["zero=auto", "debug=fast", f"run_dir={tmp_path}/run", "cluster.processes=2", "cluster.device=cpu"]
    said = cli("train", *given, cwd=tmp_path)
    assert "auto: zero.stage=0 for CPU, fixed for this run" in said.stdout + said.stderr
    assert read_config(tmp_path / "run").zero.stage == 0
    assert "already finished" in cli("train", *given, cwd=tmp_path).stdout
    assert cli("train", "zero.stage=4", cwd=tmp_path, check_code=USER_ERROR).stderr


@pytest.mark.parametrize("name", ["ppo_8b", "paper_dpo_iter_8b"])
def test_a_dry_run_needs_no_gpu_no_weights_and_no_vllm(name: str, tmp_path: Path) -> None:
    said = cli("train", f"experiment={name}", "dry_run=true", cwd=tmp_path, PSYCHOCOUNSEL_CACHE=str(tmp_path)).stdout
    assert (
        re.search(r"llama3_1_8b: zero=auto is chosen when the run starts, on 8 GPUs of 40 GB: zero.stage=", said)
        and "rows unchecked: " in said
    )
    assert ("not installed here: rollout: vLLM" in said) == (find_spec("vllm") is None)
