"""Result of a run: plain transformers loads the model, its replies end, and it learns from real text."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.harness import ARCHITECTURES, ROOT, TINY, cli, metrics_of, small_lm
from tests.support.preferences import FIRST_SAMPLE

OTHERS = [kind for kind in ARCHITECTURES if kind not in ("llama", "qwen3")]
COUNSEL_CHAT = ROOT.parent / "shared" / "data" / "counsel_chat"


def test_shipped_model_is_small_and_answers() -> None:
    assert sum(file.stat().st_size for file in TINY.iterdir()) < 8e6
    model, tokenizer = AutoModelForCausalLM.from_pretrained(TINY), AutoTokenizer.from_pretrained(TINY)
    assert replies_end(model, tokenizer) >= 3


def replies_end(model: object, tokenizer: object) -> int:
    """Return the number of four sampled replies that stop by themselves within 300 tokens."""
    messages = [{"role": "user", "content": "I keep arguing with my sister and I hate how it feels afterwards."}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)  # type: ignore[attr-defined]
    torch.manual_seed(0)
    replies = model.generate(**inputs, do_sample=True, max_new_tokens=300, num_return_sequences=4)  # type: ignore[attr-defined]
    ends = set(model.generation_config.eos_token_id)  # type: ignore[attr-defined]
    return sum(bool(ends & set(reply[inputs["input_ids"].shape[1] :].tolist())) for reply in replies)


@pytest.mark.slow
def test_flags_of_generation_that_contradict_each_other_end_no_run(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    flags = json.loads((base / "generation_config.json").read_text())
    bad = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "early_stopping": True, "max_new_tokens": 99}
    (base / "generation_config.json").write_text(json.dumps(flags | bad))
    found = cli("train", "debug=fast", "model=local", f"model.path={base}", "algo.lr=1e-4", "run_dir=run", cwd=tmp_path)
    assert (
        f"generation_config.json of {base}: early_stopping, temperature, top_p left out" in found.stdout + found.stderr
    )
    saved = json.loads((tmp_path / "run" / "model" / "generation_config.json").read_text())
    assert saved["max_new_tokens"] == 99 and saved["eos_token_id"] == flags["eos_token_id"]
    assert not saved.keys() & {"temperature", "top_p", "early_stopping"}


@pytest.mark.slow
def test_trained_model_loads_and_keeps_every_end_token(tmp_path: Path) -> None:
    cli("train", "debug=fast", "run_dir=run", "model.dtype=bf16", cwd=tmp_path)
    folder = tmp_path / "run" / "model"
    code = (
        "import sys, torch\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1]); tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "assert 'psychocounsel' not in sys.modules\n"
        "print(model.dtype, model.config.use_cache, model.generation_config.eos_token_id, tokenizer.eos_token_id)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["torch.bfloat16", "True", "[2]", "2"]
    assert json.loads((folder / "psychocounsel.json").read_text())["step"] in (1, 2)


def test_end_of_turn_token_of_the_template_joins_the_end_tokens(tmp_path: Path) -> None:
    """The base model's end token differs from the token that closes a turn in its chat template."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|turn|>\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    small_lm(vocab_size=len(tokenizer), eos_token_id=2, max_position_embeddings=2048).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    cli("train", "debug=fast", "model=local", "model.path=base", "algo.lr=1e-4", "run_dir=run", cwd=tmp_path)
    generation = json.loads((tmp_path / "run" / "model" / "generation_config.json").read_text())
    assert set(generation["eos_token_id"]) == {2, tokenizer.convert_tokens_to_ids("<|turn|>")}


@pytest.mark.parametrize("kind", ["qwen3", *(pytest.param(kind, marks=pytest.mark.proof) for kind in OTHERS)])
@pytest.mark.parametrize("stage", [pytest.param(0, marks=pytest.mark.proof), 3])
@pytest.mark.slow
def test_other_architectures_train_and_save(kind: str, stage: int, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    small_lm(kind, vocab_size=len(tokenizer), max_position_embeddings=2048).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    settings = ["model=local", "model.path=base", "algo.lr=1e-3", "cluster.processes=2", f"zero={stage}", "run_dir=run"]
    cli("train", "debug=fast", "max_steps=3", *settings, cwd=tmp_path)
    losses = [line["loss"] for line in metrics_of(tmp_path / "run") if "loss" in line]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)
    before, after = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("base", "run/model")
    )
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name].to(before[name].dtype)) for name in before)


@pytest.mark.slow
@pytest.mark.skipif(not COUNSEL_CHAT.exists(), reason="the counsel-chat pairs are not here")
def test_dpo_on_real_text_with_a_wide_spread_of_lengths(tmp_path: Path) -> None:
    data = [f"data.path={COUNSEL_CHAT}/train.jsonl", f"data.eval_path={COUNSEL_CHAT}/test.jsonl", "data=local"]
    size = ["data.limit=24", "eval.limit=6", "max_steps=4", "global_batch_size=6", "eval.every=0", "run_dir=run"]
    result = cli("train", *data, *size, "data.too_long=shorten", cwd=tmp_path)
    assert "shortened to max_length" in result.stderr
    lines = metrics_of(tmp_path / "run")
    assert lines[0]["eval/loss"] == pytest.approx(0.693147, abs=1e-5)
    assert lines[-1]["loss"] < lines[1]["loss"]


@pytest.mark.slow
def test_dpo_learns_preferences_that_looks_give_away(tmp_path: Path) -> None:
    """Uses the first version of the sample, whose labels a small model can learn; held-out accuracy must rise."""
    size = [f"data.path={FIRST_SAMPLE}", "data.min_gap=1", "data.dev_fraction=0.2", "data.limit=320", "eval.limit=100"]
    cli("train", *size, "algo.warmup=0", "eval.every=0", "run_dir=run", cwd=tmp_path)
    lines = metrics_of(tmp_path / "run")
    assert lines[0]["eval/accuracy"] == 0.5
    assert lines[-1]["eval/accuracy"] > 0.65
    assert lines[-1]["eval/loss"] < 0.6
