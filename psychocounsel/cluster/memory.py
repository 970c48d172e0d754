"""What a GPU must hold for a run, from its configuration and its models' `config.json`: an estimate, without torch."""

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from psychocounsel.algo.base import Algorithm
from psychocounsel.model.shape import Shape, bytes_of_weight, shape_of
from psychocounsel.settings import config as configs

_GB = 1e9
_PIECE = 3 * (1 << 28)  # logits of a piece, their powers and gradient: model/logprobs.py
RUNTIME = 1.5 * _GB  # CUDA context, NCCL buffers, kernels


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on each GPU by what they are for: `held` all the time, and what is needed to train, or to write replies.

    `unknown` names what is there and not counted, because its size is not known.
    """

    held: dict[str, float]
    training: dict[str, float]
    writing: dict[str, float]
    unknown: list[str]

    @property
    def total(self) -> float:
        """Training and writing take turns."""
        held, training, writing = (sum(part.values()) for part in (self.held, self.training, self.writing))
        return held + max(training, writing) + RUNTIME


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


def estimate(shape: Shape, config: DictConfig, gpus: int) -> MemoryEstimate:
    """What one of `gpus` GPUs holds during a run with a checked configuration that trains a model of `shape`."""
    algorithm, rewards, writing = configs.build(config, "algo"), _rewards(config), _writing(shape, config)
    unknown = [name for name, bytes_ in (rewards | writing).items() if bytes_ is None]
    held = {"states": _trained(shape, config, gpus)}
    training = {"activations": _activations(shape, config)}
    if algorithm.needs.main == "policy":
        training["logits"] = _PIECE + 4 * _tokens(config) * shape.hidden
    if _has_reference(config, algorithm):  # whole on every GPU, at stage 3 as well
        held["reference"] = bytes_of_weight(config.model.dtype) * shape.parameters
    if algorithm.critic_kind == "own":
        critic = _critic(shape, config, algorithm)
        if critic is None:
            unknown.append("critic")
        else:
            held["critic"] = model_states(critic.scorer, critic.largest, *_sharing(config, gpus))
            training["activations"] += _activations(critic, config)  # both go forward before one goes backward
    return MemoryEstimate(held | _known(rewards), training, _known(writing), unknown)


def _known(parts: dict[str, float | None]) -> dict[str, float]:
    return {name: bytes_ for name, bytes_ in parts.items() if bytes_ is not None}


def trained_parameters(shape: Shape, config: DictConfig) -> float:
    """How many weights of all models a run keeps optimizer state of; a critic of unknown shape counts none."""
    algorithm = configs.build(config, "algo")
    critic = _critic(shape, config, algorithm) if algorithm.critic_kind == "own" else None
    return _learning(shape, config) + (critic.scorer if critic else 0)


def _critic(shape: Shape, config: DictConfig, algorithm: Algorithm) -> Shape | None:
    begins_as = config.reward.get("path") if algorithm.critic_start == "reward" else None
    return shape_of(config, "reward", begins_as) if begins_as else shape


def _sharing(config: DictConfig, gpus: int) -> tuple[int, int, bool, bool]:
    return config.zero.stage, gpus, config.zero.offload_optimizer, config.zero.offload_parameters


def _tokens(config: DictConfig) -> int:
    return int(config.max_length if config.micro_batch_tokens == "auto" else config.micro_batch_tokens)


def _learning(shape: Shape, config: DictConfig) -> float:
    """How many weights of the main model are trained."""
    lora, scores = config.model.lora, configs.target_class(config, "algo").needs.main == "reward_model"
    if lora.rank:
        return shape.adapter(lora.rank, lora.targets) + (shape.hidden if scores else 0)
    return shape.scorer if scores else shape.parameters


def _trained(shape: Shape, config: DictConfig, gpus: int) -> float:
    learning = _learning(shape, config)
    if not config.model.lora.rank:
        return model_states(int(learning), shape.largest, *_sharing(config, gpus))
    scores = configs.target_class(config, "algo").needs.main == "reward_model"
    frozen = (shape.scorer if scores else shape.parameters) * (
        0.55 if config.model.quantise else bytes_of_weight(config.model.dtype)
    )
    return frozen / (gpus if config.zero.stage == 3 else 1) + 18.0 * learning


def _activations(shape: Shape, config: DictConfig) -> float:
    tokens = _tokens(config)
    layer = tokens * shape.kept()
    checkpoints = tokens * 2 * shape.hidden * shape.layers
    return layer + checkpoints if config.model.gradient_checkpointing else layer * shape.layers


def _has_reference(config: DictConfig, algorithm: Algorithm) -> bool:
    """Whether a frozen copy stands beside the policy.

    With adapters it is the policy without them. Offline its values are computed before the first step, by the policy;
    a copy is then held for `eval.replies` alone.
    """
    kept = algorithm.reference_kind == "initial" if algorithm.needs.rollouts else config.eval.replies
    return bool(kept) and not config.model.lora.rank


def _rewards(config: DictConfig) -> dict[str, float | None]:
    """The bytes of what scores in the training processes, as the reward says."""
    found: dict[str, float | None] = (
        configs.build(config, "reward").memory(config, "reward") if "reward" in config else {}
    )
    return found


def _writing(shape: Shape, config: DictConfig) -> dict[str, float | None]:
    """What writing replies takes besides, as the rollout says."""
    if "rollout" not in config:
        return {}
    plan = configs.build(config, "algo").round
    samples = plan.samples if plan else 1  # one to each held-out prompt
    found: dict[str, float | None] = configs.build(config, "rollout").memory(shape, config, samples)
    return found


def trained_shape(config: DictConfig) -> Shape | None:
    """The shape of the model that a run trains; None where its `config.json` is not here, or is of another kind."""
    return shape_of(config, "model", config.model.path)


def advice(shape: Shape, config: DictConfig, gpus: int, limit_gb: float) -> list[str]:
    """The smallest changes with which a run fits, as overrides."""
    changes: list[dict[str, Any]] = [
        {},
        {"model.gradient_checkpointing": True},
        {"zero.stage": 3, "model.gradient_checkpointing": True},
        {"zero.stage": 3, "zero.offload_optimizer": True, "model.gradient_checkpointing": True},
        {"model.lora.rank": 16, "model.gradient_checkpointing": True},
        {"zero.stage": 3, "zero.offload_optimizer": True, "zero.offload_parameters": True,
         "model.gradient_checkpointing": True},
    ]  # fmt: skip
    smaller = configs.build(config, "rollout").smaller() if "rollout" in config else {}
    less = {f"rollout.{key}": value for key, value in smaller.items()}
    fitting = []
    for change in [{**change, **more} for change in changes for more in ([{}, less] if less else [{}])]:
        trial = config.copy()
        for key, value in change.items():
            group, _, name = key.rpartition(".")
            node = trial.model.lora if group == "model.lora" else trial[group]
            node[name] = value
        if estimate(shape, trial, gpus).total <= limit_gb * _GB:
            fitting.append(" ".join(f"{key}={str(value).lower()}" for key, value in change.items()))
    return fitting
