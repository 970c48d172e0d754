"""Build the shipped models from `build_tiny.yaml`: `python -m psychocounsel.model.build_tiny [FOLDER]`.

FOLDER/tiny is the policy after supervised fine-tuning. From it, three models are trained on the sample's pairs:
FOLDER/tiny_reward, a reward model; FOLDER/tiny_reward_2, another one with other pairs and another seed; and
FOLDER/tiny_dpo, the policy after DPO. Tokenizer and weights see only the training prompts of `data=sample`, so the
held-out ones stay unseen.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from psychocounsel.counsel.pairs import score
from psychocounsel.data.base import Row
from psychocounsel.data.rows import Example
from psychocounsel.data.selection import split_by_prompt
from psychocounsel.data.shipped_rows import sample_rows
from psychocounsel.data.sources import load_examples
from psychocounsel.rundir.paths import ModelDir, RunDir
from psychocounsel.settings.config import compose
from psychocounsel.storage.files import SHIPPED_MODELS, json_lines, replace_directory

# The shipped models and their algo=; all others start from the first one.
ALGORITHMS = {"tiny": "sft", "tiny_reward": "reward", "tiny_reward_2": "reward", "tiny_dpo": "dpo"}

_SPECIAL = ["<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED_MODELS
    recipe: Any = OmegaConf.load(Path(__file__).with_suffix(".yaml"))
    train = training_clients()
    rows = [{"prompt": example.prompt, "completion": reply} for example, reply in targets(train)]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "rows.jsonl").write_text(json_lines(rows))
        texts = [text for example in train for text in (example.prompt[-1]["content"], *example.replies)]
        _untrained(work / "init", texts, recipe)
        overrides = ["algo=sft", "model=local", f"model.path={work}/init", "data=local", f"data.path={work}/rows.jsonl"]
        _train(work / "sft", *overrides, *recipe.tiny)
        _ship(RunDir(work / "sft").model, folder / "tiny")
        _later(work, folder, recipe)
    print(f"wrote {', '.join(f'{folder}/{name}' for name in ALGORITHMS)}")


def _later(work: Path, folder: Path, recipe: Any) -> None:
    """Train and ship the models that start from FOLDER/tiny."""
    (work / "rated.jsonl").write_text(json_lines(rated_rows()))
    begin = f"model.path={folder / 'tiny'}"
    parts = {"tiny_reward_2": ["data=local", f"data.path={work}/rated.jsonl"]}
    for name, algorithm in list(ALGORITHMS.items())[1:]:
        _train(work / name, f"algo={algorithm}", begin, *parts.get(name, []), *recipe[name])
        _ship(RunDir(work / name).model, folder / name)


def rated_rows() -> Iterator[Row]:
    """Return the rated rows of the training clients.

    `tiny_reward_2` splits them again, and sees no held-out client of `data=sample`.
    """
    prompts = {example.prompt[-1]["content"] for example in training_clients()}
    return (row for _, row in sample_rows() if row["prompt"] in prompts)


def training_clients() -> list[Example]:
    """Return the rows of the sample that `data=sample` does not hold out."""
    data = compose(["data=sample"]).data
    return split_by_prompt(load_examples(data.path, data.split, None), data.dev_fraction, data.split_seed)[0]


def targets(examples: Sequence[Example]) -> Iterator[tuple[Example, str]]:
    """Return each reply that is not marked harmful, with the client for whom it has the highest score."""
    best: dict[str, tuple[float, Example]] = {}
    for example in examples:
        assert example.ratings is not None and example.harmful is not None
        for reply, ratings, harmful in zip(example.replies, example.ratings, example.harmful, strict=True):
            value = score(ratings, {})
            if not harmful and value > best.get(reply, (0.0, example))[0]:
                best[reply] = value, example
    return ((example, reply) for reply, (_, example) in best.items())


def _train(run: Path, *overrides: str) -> None:
    subprocess.run([sys.executable, "-m", "psychocounsel.train", *overrides, f"run_dir={run}"], check=True)


def _untrained(folder: Path, texts: list[str], recipe: Any) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = recipe.tokenizer.vocabulary
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=size, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=_SPECIAL[3:],
    )
    fast.chat_template = _TEMPLATE
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    model = LlamaForCausalLM(LlamaConfig(**recipe.geometry, **ids, vocab_size=len(fast), tie_word_embeddings=True))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)


def _ship(trained: Path, folder: Path) -> None:
    """Copy the trained model in bfloat16, which halves the size of the package."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    is_policy = AutoConfig.from_pretrained(trained).architectures[0].endswith("ForCausalLM")
    kind = AutoModelForCausalLM if is_policy else AutoModelForSequenceClassification
    draft = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(
        trained, draft, ignore=shutil.ignore_patterns("*.safetensors", ModelDir(trained).about.name, "README.md")
    )
    kind.from_pretrained(trained, dtype=torch.bfloat16).save_pretrained(draft)
    (draft / "model.safetensors").chmod(0o644)
    replace_directory(draft, folder)


if __name__ == "__main__":
    main()
