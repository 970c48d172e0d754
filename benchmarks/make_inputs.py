"""Create tokenizer, models with random weights and rows from one file of pairs: `python -m benchmarks.make_inputs SPEC.json`."""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.sizes import Geometry, Sizes

Row = dict[str, Any]

_SPECIAL = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
# The template writes nothing after the end of a turn, because only one of the two sides would train on such text.
_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    prepare(Path(spec["folder"]), Path(spec["data"]), Sizes(**spec["sizes"]), spec["dtype"], spec.get("model"))


def prepare(folder: Path, data: Path, sizes: Sizes, dtype: str, model: str | None = None) -> None:
    """Write `models/NAME/`, `rows/NAME.jsonl` and `lengths.json` into `folder`.

    The models have random weights; with the folder of a `model` they are this one alone, with a chat template of ours.
    """
    from psychocounsel.model.quiet import quiet_libraries

    quiet_libraries()
    pairs = read_pairs(data, sizes.words)
    if model:
        tokenizer = copy_model(Path(model), folder / "models", dtype)
    else:
        tokenizer = train_tokenizer(pairs, sizes.tokenizer)
        for name, geometry in sizes.models.items():
            write_model(folder / "models" / name, geometry, tokenizer, dtype)
        write_model(folder / "models" / "reward", sizes.models["small"], tokenizer, dtype, rewards=True)
    lengths = {}
    for name, rows in row_sets(pairs, sizes, tokenizer).items():
        write_rows(folder / "rows" / f"{name}.jsonl", rows)
        lengths[name] = lengths_of(rows, tokenizer)
    (folder / "lengths.json").write_text(json.dumps(lengths))


def read_pairs(data: Path, words: int | None) -> list[Row]:
    """Return the file's pairs as chat messages, in order. Pairs with equal replies are skipped."""
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines() if line.strip()]
    pairs = [
        _pair(str(number), row["prompt"], row["chosen"], row["rejected"], words) for number, row in enumerate(rows)
    ]
    return [pair for pair in pairs if pair["chosen"] != pair["rejected"]]


def _pair(name: str, prompt: str, chosen: str, rejected: str, words: int | None) -> Row:
    def message(role: str, text: str) -> list[Row]:
        return [{"role": role, "content": (" ".join(text.split()[:words]) if words else text).strip()}]

    replies = {"chosen": message("assistant", chosen), "rejected": message("assistant", rejected)}
    return {"id": name, "prompt": message("user", prompt), **replies}


def row_sets(pairs: list[Row], sizes: Sizes, tokenizer: Any) -> dict[str, list[Row]]:
    """Return the rows of every case by name."""
    fitting = [pair for pair, fits in zip(pairs, _fit(pairs, tokenizer), strict=True) if fits]
    # No demonstration or prompt occurs twice, because psychocounsel trains on equal ones once per pass.
    demonstrations = {
        (pair["prompt"][0]["content"], pair["chosen"][0]["content"]): {
            "prompt": pair["prompt"],
            "completion": pair["chosen"],
        }
        for pair in fitting
    }
    prompts = {pair["prompt"][0]["content"]: pair for pair in reversed(fitting)}
    sets = {
        "pairs": fitting[: sizes.pairs],
        "prompts": list(prompts.values())[::-1][: sizes.prompts],
        "mfu": fitting[: sizes.mfu_pairs],
        "sweep": fitting[: sizes.sweep_pairs],
        "demonstrations": list(demonstrations.values())[: sizes.pairs],
    }
    for count in sizes.scaling_pairs:
        sets[f"scaling_{count}"] = list(itertools.islice(_synthetic(fitting, sizes.scaling_words), count))
    return sets


def _fit(rows: list[Row], tokenizer: Any, max_length: int = 1024) -> list[bool]:
    return [prompt + max(replies) <= max_length for prompt, replies in lengths_of(rows, tokenizer)]


def _synthetic(pairs: list[Row], words: int) -> Iterator[Row]:
    """Yield the pairs repeatedly with short texts. A number in each prompt makes all prompts different."""
    for number, pair in enumerate(itertools.cycle(pairs)):
        prompt, chosen, rejected = (pair[key][0]["content"] for key in ("prompt", "chosen", "rejected"))
        made = _pair(f"s{number}", f"{number} {prompt}", f"{chosen[:1]} {chosen}", rejected, words)
        if made["chosen"] != made["rejected"]:
            yield made


def lengths_of(rows: list[Row], tokenizer: Any) -> list[tuple[int, list[int]]]:
    """Return (tokens of the prompt, tokens of each reply) of every row."""
    prompts = tokenizer.apply_chat_template([row["prompt"] for row in rows], tokenize=False, add_generation_prompt=True)
    counted = []
    for row, prompt in zip(rows, prompts, strict=True):
        replies = [row[key] for key in ("chosen", "rejected", "completion") if key in row]
        texts = [prompt + reply[0]["content"] + _SPECIAL[2] for reply in replies]
        start, *whole = (len(ids) for ids in tokenizer([prompt, *texts], verbose=False)["input_ids"])
        counted.append((start, [length - start for length in whole]))
    return counted


def train_tokenizer(pairs: list[Row], size: int) -> Any:
    """Return a byte-level BPE tokenizer trained on the different texts of the file."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = dict.fromkeys(pair[key][0]["content"] for pair in pairs for key in ("prompt", "chosen", "rejected"))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    pad, _, end = _SPECIAL
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, eos_token=end)
    fast.add_special_tokens({"additional_special_tokens": _SPECIAL[1:2]})
    fast.chat_template = _TEMPLATE
    return fast


def write_model(folder: Path, geometry: Geometry, tokenizer: Any, dtype: str, rewards: bool = False) -> None:
    """Write a Llama model with random weights from a fixed seed, and its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    torch.manual_seed(0)
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    kind = LlamaForSequenceClassification if rewards else LlamaForCausalLM
    labels = {"num_labels": 1} if rewards else {}
    kind(LlamaConfig(**geometry, **ids, **labels)).to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def copy_model(source: Path, models: Path, dtype: str) -> Any:
    """Write a ChatML model as `small` and, with a new head, as `reward`; return its tokenizer with our template.

    Weights are rounded to bf16, in which most models are published. Otherwise a run in bf16 would begin elsewhere.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    from psychocounsel.model.tokenizer import set_padding

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = _TEMPLATE
    set_padding(tokenizer, {*tokenizer.convert_tokens_to_ids(_SPECIAL[1:])})  # another token than that of the end
    ids = {"pad_token_id": tokenizer.pad_token_id}
    for name, kind, labels in (
        ("small", AutoModelForCausalLM, {}),
        ("reward", AutoModelForSequenceClassification, {"num_labels": 1}),
    ):
        model = kind.from_pretrained(source, dtype=torch.bfloat16, **ids, **labels).to(getattr(torch, dtype))
        model.save_pretrained(models / name)
        tokenizer.save_pretrained(models / name)
    return tokenizer


def write_rows(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
