"""Runs that the tests of `psychocounsel.export` share, and what they compare of them."""

import shutil
from pathlib import Path

from transformers import AutoTokenizer

from psychocounsel.storage.files import read_json
from tests.support.harness import TINY, cli, small_lm

SETTINGS = ["model=local", "model.path=base", "data.limit=16", "eval.limit=4", "global_batch_size=4", "algo.lr=1e-3"]
STEPS = ["max_steps=4", "eval.every=2", "checkpoint.every=1", "checkpoint.keep_last=9", "cluster.threads=1"]
OWN_ALGORITHM = (
    "from dataclasses import dataclass\nfrom psychocounsel.algo.dpo import DPO\n\n"
    "@dataclass\nclass Ours(DPO):\n    notes: str = ''\n"
)


def make_base(folder: Path) -> None:
    """A chat model with tied weights, a licence of its own, and a template that ends turns with a token of its own."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|turn|>\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    settings = {"eos_token_id": 2, "max_position_embeddings": 2048, "tie_word_embeddings": True}
    small_lm(vocab_size=len(tokenizer), **settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# Base\n")


def train(home: Path, name: str, *overrides: str) -> Path:
    """A run of four steps, evaluated at 2 and 4, with a checkpoint of each; in `home`, beside the model it begins with."""
    cli("train", *overrides, *SETTINGS, *STEPS, f"run_dir={name}", cwd=home)
    return home / name


def train_adapter(home: Path) -> Path:
    """A LoRA run of an algorithm that only a folder of the user knows, and that reads a file of the user's."""
    (home / "mine" / "algo").mkdir(parents=True)
    (home / "mine" / "export_test_algorithm.py").write_text(OWN_ALGORITHM)
    (home / "mine" / "algo" / "ours.yaml").write_text(
        f"_target_: export_test_algorithm.Ours\nlr: 1e-4\nnotes: {home}/notes.txt\n"
    )
    return train(home, "adapter", "--config-dir=mine", "algo=ours", "model.lora.rank=4")


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def best_step(run: Path) -> int:
    return int(read_json(run / "model" / "psychocounsel.json")["step"])


def copy_of(run: Path, folder: Path, *without: str) -> Path:
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns(*without))
    return folder
