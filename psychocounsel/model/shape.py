"""Number of weights of a model, from its `config.json` alone, without torch."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.remote import hub
from psychocounsel.remote.hub_sources import HubSource
from psychocounsel.rundir.trained_runs import start_path
from psychocounsel.storage.files import expanded, folder_of, read_json
from psychocounsel.storage.weight_files import holds_config

_NAMES = (
    "hidden_size",
    "num_hidden_layers",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "tie_word_embeddings",
)
_LLAMA3_8B = (4096, 32, 14336, 32, 8, 128, 128256, False)
# Sizes from the config.json of published models, for estimates before a model is downloaded.
_SIZES: dict[str, tuple[int, ...]] = {
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA3_8B,
    "meta-llama/Meta-Llama-3-8B-Instruct": _LLAMA3_8B,
    "princeton-nlp/Llama-3-Base-8B-SFT": _LLAMA3_8B,
    # The paper's models were trained from Llama-3.1-8B-Instruct and have its layers.
    "Psychotherapy-LLM/PsychoCounsel-Llama3-8B": _LLAMA3_8B,
    "Psychotherapy-LLM/PsychoCounsel-Llama3-8B-Reward": _LLAMA3_8B,
    "meta-llama/Llama-3.2-3B-Instruct": (3072, 28, 8192, 24, 8, 128, 128256, True),
    "Qwen/Qwen3-0.6B": (1024, 28, 3072, 16, 8, 128, 151936, True),
    "Qwen/Qwen3-8B": (4096, 36, 12288, 32, 8, 128, 151936, False),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": (2048, 24, 8192, 32, 32, 64, 49152, True),
    "HuggingFaceTB/SmolLM2-135M-Instruct": (576, 30, 1536, 9, 3, 64, 49152, True),
    "HuggingFaceTB/SmolLM2-360M-Instruct": (960, 32, 2560, 15, 5, 64, 49152, True),
}


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama-style decoder; `parameters` counts tied embeddings once."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    tied: bool

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Shape":
        """Return the shape in a `config.json`; for a model of text and images, that of its text part."""
        text = config.get("text_config", config)
        heads = text["num_attention_heads"]
        return cls(
            text["hidden_size"],
            text["num_hidden_layers"],
            text["intermediate_size"],
            heads,
            text.get("num_key_value_heads") or heads,
            text.get("head_dim") or text["hidden_size"] // heads,
            text["vocab_size"],
            bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        )

    @property
    def layer(self) -> int:
        """Weights of one layer: attention, MLP and two norms (biases, about a thousandth, are ignored)."""
        return sum(rows * columns for rows, columns in self._matrices().values()) + 2 * self.hidden

    @property
    def parameters(self) -> int:
        """Weights of the language model."""
        return self._trunk + (0 if self.tied else self.vocabulary * self.hidden)

    @property
    def scorer(self) -> int:
        """Weights of a reward model or critic of this shape: a head with one score replaces the output layer."""
        return self._trunk + self.hidden

    @property
    def _trunk(self) -> int:
        return self.layers * self.layer + self.vocabulary * self.hidden + self.hidden

    @property
    def largest(self) -> int:
        """Weights of the largest single module, which ZeRO-3 gathers."""
        return max(self.vocabulary, self.intermediate) * self.hidden

    def adapter(self, rank: int, targets: Any) -> int:
        """Return the weights of low-rank adapters of `targets`, which are names of layers or "all-linear"."""
        sides = {name: sum(size) for name, size in self._matrices().items()}
        chosen = [sides.get(name, 0) for name in targets] if not isinstance(targets, str) else sides.values()
        return self.layers * rank * sum(chosen)

    def _matrices(self) -> dict[str, tuple[int, int]]:
        queries, keys = self.heads * self.head, self.kv_heads * self.head
        attention = {"q_proj": queries, "k_proj": keys, "v_proj": keys, "o_proj": queries}
        mlp = dict.fromkeys(("gate_proj", "up_proj", "down_proj"), self.intermediate)
        return {name: (self.hidden, size) for name, size in (attention | mlp).items()}

    def kept(self) -> int:
        """Return the bfloat16 bytes that backward needs per token in one layer."""
        attention = 3 * self.heads * self.head + 4 * self.kv_heads * self.head
        return 2 * (6 * self.hidden + attention + 4 * self.intermediate)

    def cached(self) -> int:
        """Return the number of key and value elements cached per token, over all layers."""
        return 2 * self.layers * self.kv_heads * self.head


def bytes_of_weight(dtype: str) -> int:
    """Return the bytes of a weight on GPU that is not trained, for a `model.dtype` or `reward.dtype`."""
    return 4 if dtype == "fp32" else 2


def shape_of(config: DictConfig, key: str, path: str) -> Shape | None:
    """Return the shape of the model in `path`, the value of `key`.path; for an adapter, the shape of its base.

    It is read from a local `config.json`, or otherwise from the list of published models. None if the model is neither
    local nor listed, or its config lacks the sizes of a Llama-style decoder.
    """
    folder = _folder(config, key, path)
    if folder and holds_config(folder):
        return _read(folder)
    known = published(path)
    return Shape.of(known) if known else None


def number_of_weights(config: DictConfig, path: str) -> int | None:
    """Return the number of weights of the model in `path`; if it is not trained yet, of the model that its run starts from.

    None if it is unknown.
    """
    seen = set[str]()
    while path not in seen:
        seen.add(path)
        place = expanded(path)
        if shape := shape_of(config, "model", str(place.absolute()) if place.exists() else path):
            return shape.parameters
        path = start_path(path) or path
    return None


@cache
def _read(folder: Path) -> Shape | None:
    content, adapter = read_json(folder / "config.json"), read_json(folder / "adapter_config.json")
    if content is None and adapter:
        base = Path(str(adapter.get("base_model_name_or_path")))
        return _read(base) if base.is_absolute() and base != folder else None
    try:
        return Shape.of(content) if content else None
    except (KeyError, TypeError):
        return None


def published(path: str) -> dict[str, Any] | None:
    """Return the sizes in the `config.json` of the hub model `path`; None if the model is not listed."""
    sizes = _SIZES.get(path)
    return dict(zip(_NAMES, sizes, strict=True)) if sizes else None


def _folder(config: DictConfig, key: str, path: str) -> Path | None:
    if path.startswith("builtin:") or Path(path).is_absolute():
        return folder_of(path)
    if Path(path).exists():
        return None
    source = HubSource("model", path, OmegaConf.select(config, f"{key}.revision"), f"{key}.path")
    return hub.cached(source, config.paths.cache)
