"""What a GPU must hold to train a model, from its `config.json` alone: an estimate, without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from psychocounsel import hub
from psychocounsel.files import read_json

_GB = 1e9
_PIECE = 3 * (1 << 28)  # logits of a piece, their powers and gradient: model/logprobs.py
_RUNTIME = 1.5 * _GB  # CUDA context, NCCL buffers, kernels


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's kind. `parameters` counts tied embeddings once."""

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
        """From what `config.json` holds (of a model with text and images, its text part)."""
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
        """Weights of one layer: attention, MLP and two norms (biases, a thousandth, are left out)."""
        attention = 2 * self.hidden * self.head * (self.heads + self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def parameters(self) -> int:
        return self.layers * self.layer + self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden

    @property
    def largest(self) -> int:
        """Weights of the largest single module, which ZeRO-3 gathers."""
        return max(self.vocabulary, self.intermediate) * self.hidden

    def kept(self) -> int:
        """Bytes of bfloat16 that backward needs of a token in one layer."""
        attention = 3 * self.heads * self.head + 4 * self.kv_heads * self.head
        return 2 * (6 * self.hidden + attention + 4 * self.intermediate)


@dataclass(frozen=True)
class Estimate:
    """Bytes on each GPU."""

    states: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return self.states + self.activations + self.logits + _RUNTIME


def model_states(
    parameters: int,
    largest: int,
    stage: int,
    gpus: int,
    offload_optimizer: bool = False,
    offload_parameters: bool = False,
) -> float:
    """Bytes per GPU of weights, gradients and Adam's state in mixed precision.

    Stages 2 and 3 as DeepSpeed's own estimators count them (`estimate_zero2_...`, `estimate_zero3_model_states_mem_needs`).
    Stage 0 has weights, gradients and both moments in float32, and casts weights to bfloat16; stage 1 keeps the float32
    gradients whole.
    """
    if stage == 0:
        return 18.0 * parameters
    if stage == 1:
        return 2 * parameters if offload_optimizer else 6 * parameters + 14 * parameters / gpus
    if stage == 2:
        return 2 * parameters if offload_optimizer else 2 * parameters + 18 * parameters / gpus
    if offload_optimizer:
        return 4 * largest + (0 if offload_parameters else 2 * parameters / gpus)
    return 4 * largest + 18 * parameters / gpus


def estimate(shape: Shape, config: DictConfig, gpus: int) -> Estimate:
    """What one of `gpus` GPUs holds while it trains with a checked configuration."""
    zero, lora, tokens = config.zero, config.model.lora, config.micro_batch_tokens
    tokens = config.max_length if tokens == "auto" else tokens
    if lora.rank:
        frozen = shape.parameters * (0.55 if config.model.quantise else 2.0)
        adapters = shape.layers * lora.rank * (6 * shape.hidden + 4 * shape.heads * shape.head + 3 * shape.intermediate)
        states = frozen / (gpus if zero.stage == 3 else 1) + 18.0 * adapters
    else:
        offload = zero.offload_optimizer, zero.offload_parameters
        states = model_states(shape.parameters, shape.largest, zero.stage, gpus, *offload)
    layer = tokens * shape.kept()
    checkpoints = tokens * 2 * shape.hidden * shape.layers
    activations = layer + checkpoints if config.model.gradient_checkpointing else layer * shape.layers
    return Estimate(states, activations, _PIECE + 4 * tokens * shape.hidden)


def shape_of(config: DictConfig) -> Shape | None:
    """The shape of the model that a run trains; None where its `config.json` is not here, or is of another kind."""
    folder = _folder(config)
    content = read_json(folder / "config.json") if folder else None
    try:
        return Shape.of(content) if content else None
    except (KeyError, TypeError):
        return None


def _folder(config: DictConfig) -> Path | None:
    path = Path(config.model.path)
    if config.model.path.startswith("builtin:"):
        return Path(__file__).parent.parent / "model" / "shipped" / config.model.path.partition(":")[2]
    if path.is_absolute():
        return path
    return next((folder for source, folder in hub.folders(config) if source.key == "model.path"), None)


def advice(shape: Shape, config: DictConfig, gpus: int, limit_gb: float) -> list[str]:
    """The smallest changes with which a run fits, as overrides."""
    changes: list[dict[str, Any]] = [
        {"model.gradient_checkpointing": True},
        {"zero.stage": 3, "model.gradient_checkpointing": True},
        {"zero.stage": 3, "zero.offload_optimizer": True, "model.gradient_checkpointing": True},
        {"model.lora.rank": 16, "model.gradient_checkpointing": True},
        {"zero.stage": 3, "zero.offload_optimizer": True, "zero.offload_parameters": True,
         "model.gradient_checkpointing": True},
    ]  # fmt: skip
    fitting = []
    for change in changes:
        trial = config.copy()
        for key, value in change.items():
            group, _, name = key.rpartition(".")
            node = trial.model.lora if group == "model.lora" else trial[group]
            node[name] = value
        if estimate(shape, trial, gpus).total <= limit_gb * _GB:
            fitting.append(" ".join(f"{key}={str(value).lower()}" for key, value in change.items()))
    return fitting
