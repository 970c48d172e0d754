"""Tests of `psychocounsel export`: the run's weights are unchanged, and the model card may be published."""

import getpass
import json
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from psychocounsel.counsel.system_prompt import SHORT
from psychocounsel.export import main as export
from psychocounsel.storage.files import read_json
from tests.support.export_runs import SETTINGS, STEPS, best_step, content, copy_of, train
from tests.support.harness import ROOT, cli, metrics_of

TEXT = torch.tensor([[1, 4, 300, 17, 500, 2, 5, 44, 900, 12, 13, 2]])
pytestmark = pytest.mark.usefixtures("own_environment")


@pytest.fixture(scope="module")
def reward_run(export_home: Path) -> Path:
    return train(export_home, "reward", "algo=reward")


def trained_weights(run: Path, step: int, name: str = "policy") -> dict[str, torch.Tensor]:
    """Return the unpartitioned tensors that one process wrote, by the parameter names of the plain model."""
    weights = load_file(run / "checkpoints" / f"step-{step:06d}" / name / "weights-00000.safetensors")
    return {key.removeprefix("lm."): value for key, value in weights.items()}


# -- the best model and its card


def test_card_says_what_made_the_model_and_nothing_of_the_machine(
    policy_run: Path, export_home: Path, tmp_path: Path
) -> None:
    export([str(policy_run), f"to={tmp_path / 'out'}"])
    card = ModelCard.load(tmp_path / "out" / "README.md")
    data = card.data.to_dict()
    assert (data["license"], data["library_name"]) == ("cc-by-nc-4.0", "transformers"), (
        "the base model has the stricter licence"
    )
    assert data["pipeline_tag"] == "text-generation" and "dpo" in data["tags"]
    assert "base_model" not in data and "datasets" not in data, "neither the base nor the data are on the hub"
    about = read_json(policy_run / "model" / "psychocounsel.json")
    (line,) = [line for line in metrics_of(policy_run) if line["step"] == about["step"]]
    shown = {name: float(value) for name, value in (row[2:-2].split(" | ") for row in table(card.text))}
    assert shown == {name: round(value, 4) for name, value in line.items() if name.startswith("eval/")}
    config = yaml.safe_load((policy_run / "config.yaml").read_text())
    written = yaml.safe_load(card.text.split("```yaml")[1].split("```")[0])
    assert written["algo"] == config["algo"] and written["max_steps"] == 4
    assert "- base model: cc-by-nc-4.0\n- data sample: apache-2.0\n" in card.text
    told = [str(export_home), "alice", str(ROOT), str(Path.home()) + "/", f"/{getpass.getuser()}/"]
    for name, text in content(tmp_path / "out").items():
        assert not [word for word in told if word.encode() in text], name


def table(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| eval/")]


# -- the weights of a checkpoint


def test_weights_of_a_step_are_those_of_its_checkpoint(policy_run: Path, export_home: Path, tmp_path: Path) -> None:
    best = best_step(policy_run)
    export([str(policy_run), f"step={best}", f"to={tmp_path / 'best'}"])
    assert content(tmp_path / "best") == content(policy_run / "model"), (
        "the files of the run's model are copied byte for byte"
    )
    end_tokens = read_json(tmp_path / "best" / "generation_config.json")["eos_token_id"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "best")
    assert set(end_tokens) == {2, tokenizer.convert_tokens_to_ids("<|turn|>")}

    export([str(policy_run), "step=3", f"to={tmp_path / 'out'}"])
    weights, expected = load_file(tmp_path / "out" / "model.safetensors"), trained_weights(policy_run, 3)
    assert weights.keys() == expected.keys() and "lm_head.weight" not in expected, (
        "the tied output layer is written once"
    )
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    by_hand = AutoModelForCausalLM.from_pretrained(export_home / "base").eval()
    with torch.no_grad():
        before = by_hand(TEXT).logits
        by_hand.load_state_dict(expected | {"lm_head.weight": expected["model.embed_tokens.weight"]})
        assert torch.equal(exported(TEXT).logits, by_hand(TEXT).logits)
    assert not torch.equal(before, exported(TEXT).logits)
    assert exported.lm_head.weight is exported.model.embed_tokens.weight
    assert read_json(tmp_path / "out" / "psychocounsel.json") == {"step": 3, "system_prompt": SHORT}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "These weights were not evaluated." in card and "step 3 of `DPO` from `base`" in card


def test_reward_model_of_a_step_has_its_own_statistics(reward_run: Path, tmp_path: Path) -> None:
    best = best_step(reward_run)
    export([str(reward_run), f"step={best}", f"to={tmp_path / 'best'}"])
    assert content(tmp_path / "best") == content(reward_run / "model")
    card = ModelCard.load(tmp_path / "best" / "README.md").data
    assert card.pipeline_tag == "text-classification"
    for step in (2, 4):
        export([str(reward_run), f"step={step}", f"to={tmp_path / 'out'}"])
        (line,) = [line for line in metrics_of(reward_run) if line["step"] == step]
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
        assert (model.config.mean, model.config.std) == (line["eval/reward_mean"], line["eval/reward_std"])
        expected = trained_weights(reward_run, step, "reward_model")
        assert model.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
        assert model(TEXT).logits.shape == (1, 1)
    further = copy_of(reward_run, tmp_path / "further", "model")  # a run that starts from the model that it trained
    config = (further / "config.yaml").read_text().replace(str(reward_run.parent / "base"), str(reward_run / "model"))
    (further / "config.yaml").write_text(config)
    export([str(further), "step=1"])
    settings = AutoModelForSequenceClassification.from_pretrained(further / "export").config
    assert (settings.mean, settings.std) == (None, None), "the scale of the initial model is not taken over"


@pytest.mark.slow
def test_adapter_of_a_step_alone_and_merged(adapter_run: Path, export_home: Path, tmp_path: Path) -> None:
    best = best_step(adapter_run)
    export([str(adapter_run), f"step={best}", f"to={tmp_path / 'adapter'}"])
    assert settled(content(tmp_path / "adapter")) == settled(content(adapter_run / "model"))
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "library_name: peft" in card and "notes: notes.txt" in card and "alice" not in card
    export([str(adapter_run), "step=3", "merge=true", f"to={tmp_path / 'merged'}"])
    assert "library_name: transformers" in (tmp_path / "merged" / "README.md").read_text()
    weights, base = (load_file(folder / "model.safetensors") for folder in (tmp_path / "merged", export_home / "base"))
    trained = trained_weights(adapter_run, 3)
    assert weights.keys() == base.keys()
    assert all(".lora_" in name for name in trained), "checkpoints contain no frozen weights"
    changed = 0
    for name, value in base.items():
        path = name.removesuffix(".weight")
        low = [trained.get(f"{path}.lora_{letter}.default.weight") for letter in "BA"]
        expected = value if low[0] is None else value + 32 / 4 * low[0] @ low[1]
        assert torch.allclose(weights[name], expected, atol=1e-6), name
        changed += not torch.equal(weights[name], value)
    assert changed == 21  # seven matrices in each of three layers
    export([str(adapter_run), "merge=true", f"to={tmp_path / 'best'}"])
    export([str(adapter_run), "merge=true", f"step={best}", f"to={tmp_path / 'same'}"])
    assert content(tmp_path / "best") == content(tmp_path / "same")


def settled(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files with the adapter's targets sorted, because peft writes them in the random order of a set."""
    if "adapter_config.json" not in files:
        return files
    settings = json.loads(files["adapter_config.json"])
    settings["target_modules"].sort()
    return files | {"adapter_config.json": json.dumps(settings).encode()}


SHARDED = [
    (2, "fp32", "algo=dpo", "model.lora.rank=4"),
    (3, "bf16", "algo=dpo", "algo.weight_decay=0.1"),
]
MORE_SHARDED = [
    (0, "fp32", "algo=dpo", ""),
    (1, "bf16", "algo=reward", ""),
    (3, "fp32", "algo=dpo", "algo.weight_decay=0.1"),
    (3, "bf16", "algo=dpo", "model.lora.rank=4"),
    (1, "fp32", "algo=dpo", "algo.weight_decay=0.1"),
    (2, "bf16", "algo=dpo", "algo.weight_decay=0.1"),
    (3, "bf16", "algo=reward", ""),
    (3, "fp32", "algo=reward", "model.lora.rank=4"),
    (1, "bf16", "algo=dpo", "model.lora.rank=4"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "dtype", "algorithm", "more"),
    [*SHARDED, *(pytest.param(*each, marks=pytest.mark.proof) for each in MORE_SHARDED)],
)
def test_weights_of_a_step_are_put_together_from_all_ranks(
    stage: int, dtype: str, algorithm: str, more: str, export_home: Path, tmp_path: Path
) -> None:
    """Export from the ranks' files gives the same weights as the run, which gathers the engine's parameters one by one."""
    two = ["cluster.processes=2", f"zero={stage}", f"model.dtype={dtype}"]
    two += ["zero.persistence_elements=100"] if stage == 3 else []
    steps = ["max_steps=3", "eval.every=1", *STEPS[2:]]
    run = ["train", algorithm, *filter(None, [more]), f"run_dir={tmp_path / 'run'}"]
    cli(*run, *SETTINGS, *two, *steps, cwd=export_home)
    best = best_step(tmp_path / "run")
    exports = {}
    for step in (1, 2, 3):
        export([str(tmp_path / "run"), f"step={step}", f"to={tmp_path / 'out'}"])
        exports[step] = content(tmp_path / "out")
    assert settled(exports[best]) == settled(content(tmp_path / "run" / "model"))
    name = "adapter_model.safetensors" if "lora" in more else "model.safetensors"
    assert len({exported[name] for exported in exports.values()}) == 3


@pytest.mark.slow
def test_untied_weights_of_a_step(small_model: Path, tmp_path: Path) -> None:
    base = [f"model.path={small_model}" if text == "model.path=base" else text for text in SETTINGS]
    sharded = ["cluster.processes=2", "zero=3", "zero.persistence_elements=0"]
    cli("train", *base, *STEPS, *sharded, "run_dir=run", cwd=tmp_path)
    export([str(tmp_path / "run"), f"step={best_step(tmp_path / 'run')}", f"to={tmp_path / 'out'}"])
    assert content(tmp_path / "out") == content(tmp_path / "run" / "model")
    assert "lm_head.weight" in load_file(tmp_path / "out" / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["dpo", pytest.param("reward", marks=pytest.mark.proof)])
def test_adapter_of_a_step_on_a_quantised_base(algorithm: str, tmp_path: Path) -> None:
    quantised = ["model=tiny", "model.quantise=nf4", "model.lora.rank=4", f"algo={algorithm}", "zero=1"]
    run = tmp_path / "run"
    cli("train", *SETTINGS[2:], *STEPS, *quantised, f"run_dir={run}", cwd=tmp_path)
    export([str(run), f"step={best_step(run)}", f"to={tmp_path / 'out'}"])
    assert settled(content(tmp_path / "out")) == settled(content(run / "model"))
    export([str(run), f"step={best_step(run)}", "merge=true", f"to={tmp_path / 'merged'}"])
    export([str(run), "merge=true", f"to={tmp_path / 'out'}"])
    assert content(tmp_path / "merged") == content(tmp_path / "out")
