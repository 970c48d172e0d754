"""Training runs shared by the tests of `psychocounsel export`, and readers of the files that these tests compare."""

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
    """Write a chat model with tied weights, a model card with a licence, and a template with a special end-of-turn token."""
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
    """Train four steps with evaluations at steps 2 and 4 and a checkpoint at each step. The run is in `home`, like its base."""
    cli("train", *overrides, *SETTINGS, *STEPS, f"run_dir={name}", cwd=home)
    return home / name


def train_adapter(home: Path) -> Path:
    """Train a LoRA run with an algorithm from a user's folder. A setting of the algorithm names a file of the user."""
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
