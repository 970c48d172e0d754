"""Estimated GPU memory of a run, from its configuration and its models' `config.json`, without torch."""

from dataclasses import dataclass, field

from omegaconf import DictConfig

from psychocounsel.algo.base import Algorithm
from psychocounsel.model.shape import Shape, bytes_of_weight, shape_of
from psychocounsel.settings import config as configs

# DeepSpeed's ZeRO: states of a trained model, and buffers, in bytes.

_LIVE = 1_050_000_000  # weights that stage 3 gathers at once: stage3_max_live_parameters plus a prefetch bucket
_ENGINE_BUCKET = 500_000_000  # gradients that DeepSpeed's engine reduces at once, at stages 0 and 1


def state_parts(
    parameters: int,
    largest: int,
    stage: int,
    gpus: int,
    offload_optimizer: bool = False,
    offload_parameters: bool = False,
    hpz: int = 1,
) -> dict[str, float]:
    """Return bytes per GPU of weights, gradients and Adam's state in mixed precision, by part.

    Weights are the copies used in forward passes; master weights count as optimizer state; gradients are accumulated in
    float32. Stages 2 and 3 follow DeepSpeed's own estimators (`estimate_zero2_...`, `estimate_zero3_model_states_mem_needs`).
    Stage 0 keeps everything whole, like stage 1 on one GPU. At stage 1, DeepSpeed's bfloat16 optimizer keeps whole weights
    and whole float32 gradients.
    """
    adam = 0.0 if offload_optimizer else 12.0 * parameters / gpus
    if stage == 0:
        return {"weights": 2.0 * parameters, "gradients": 4.0 * parameters, "optimizer": 12.0 * parameters}
    if stage == 1:
        return {"weights": 2.0 * parameters, "gradients": 4.0 * parameters, "optimizer": adam}
    gradients = 0.0 if offload_optimizer else 4.0 * parameters / gpus
    copies = 0.0 if offload_optimizer else 2.0 * parameters / gpus  # gradients in bfloat16; at stage 3 the weights
    if stage == 2:
        return {"weights": 2.0 * parameters, "gradients": gradients + copies, "optimizer": adam}
    if offload_optimizer:
        copies = 0.0 if offload_parameters else 2.0 * parameters / gpus
    copies += 2.0 * parameters / hpz if hpz > 1 else 0.0  # the copy that `hpz` GPUs share (ZeRO++ hpZ)
    return {"weights": 4.0 * largest + copies, "gradients": gradients, "optimizer": adam}


def resting_states(parameters: float, stage: int, gpus: int, offload_optimizer: bool, weights: bool) -> float:
    """Return a lower bound of the bytes of `state_parts` that leave a GPU during generation (`rollout.offload_idle`).

    Adam's moments and the master weights leave. At stage 1 the float32 gradients leave, too, and with `weights` the
    weights of forward passes.
    """
    if stage == 0:
        return parameters * (14.0 if weights else 12.0)
    read = 2.0 * parameters / (gpus if stage == 3 else 1) if weights else 0.0
    kept_whole = 4.0 * parameters if stage == 1 else 0.0
    return read + kept_whole + (0.0 if offload_optimizer else 12.0 * parameters / gpus)


def bucket_memory(
    parameters: float, whole: float, largest: float, stage: int, gpus: int, bucket: int
) -> tuple[float, float]:
    """Return bytes per GPU of ZeRO's permanent buffers, and of the buffers of a backward pass.

    `parameters` counts trained weights, `whole` all weights of the model. `bucket` is `zero.bucket_elements`; a buffer has
    that size even for a small model. Gradients are reduced in float32; a gradient larger than the buffer is reduced alone.
    """
    filled = min(parameters, max(bucket, largest))
    if stage < 2:  # the gradient that fills a bucket is included
        return 0.0, 4.0 * min(parameters, _ENGINE_BUCKET + largest) if gpus > 1 else 0.0
    if stage == 2:  # two alternating buffers in bfloat16, a float32 copy of one, and the next gradient
        return 0.0, 4.0 * bucket + 4.0 * filled + 2.0 * min(largest, parameters)
    alone = 8.0 * largest if bucket < largest <= parameters else 0.0  # in float32, and split for the ranks
    return 4.0 * bucket + 2.0 * min(_LIVE, whole), max(4.0 * min(bucket, parameters), alone)


# The whole run.

_GB = 1e9
_PIECE = 3 * (1 << 28)  # logits of one piece, their exponentials and gradient: model/output_layer.py
RUNTIME = 1.5 * _GB  # CUDA context, NCCL buffers, kernels


@dataclass(frozen=True)
class MemoryEstimate:
    """Estimated bytes on each GPU, by purpose.

    Attributes:
        held: on the GPU during the whole run, except the part `resting`.
        training: needed only by an optimizer step.
        writing: needed only to generate replies.
        unknown: names of models that are not counted, because their size is unknown.
        frozen: frozen models that are on the GPU only while used (`rollout.offload_idle`): the reference, or all reward models.
        resting: part of `held` that leaves the GPU while replies are generated and scored.
        copying: an engine's copy of the policy's weights. The policy's own weights leave only after the copy is complete.
    """

    held: dict[str, float]
    training: dict[str, float]
    writing: dict[str, float]
    unknown: list[str]
    frozen: dict[str, float] = field(default_factory=dict)
    resting: dict[str, float] = field(default_factory=dict)
    copying: float = 0.0

    @property
    def total(self) -> float:
        """Peak bytes: training, generation and scoring take turns."""
        held, training, writing, less = (
            sum(part.values()) for part in (self.held, self.training, self.writing, self.resting)
        )
        reference = self.frozen.get("reference", 0.0)
        rewards = sum(self.frozen.values()) - reference
        copying = self.copying - self.resting.get("states", 0.0)
        return held + max(training, reference, max(writing, rewards) - less, copying) + RUNTIME


def estimate(shape: Shape, config: DictConfig, gpus: int) -> MemoryEstimate:
    """Return the memory of one of `gpus` GPUs in a run with a checked configuration that trains a model of `shape`."""
    algorithm, rewards, writing = configs.build(config, "algo"), _rewards(config), _writing(shape, config)
    unknown = [name for name, bytes_ in (rewards | writing).items() if bytes_ is None]
    scores = algorithm.needs.main == "reward_model"
    whole = float(shape.scorer if scores else shape.parameters)
    trained = [(shape, learned_weights(shape, config), whole)]
    states = sum(parts_of_states(shape, config, gpus).values())
    held, training = {"states": states}, {"activations": activation_bytes(shape, config)}
    if not scores:
        training["logits"] = _PIECE + 4 * _tokens(config) * shape.hidden
    if algorithm.critic_kind == "own":
        critic = _critic(shape, config, algorithm)
        if critic is None:
            unknown.append("critic")
        else:
            trained.append((critic, critic.scorer, critic.scorer))
            held["critic"] = sum(state_parts(critic.scorer, critic.largest, *_sharing(config, gpus)).values())
            # Added, because both forward passes precede the backward passes.
            training["activations"] += activation_bytes(critic, config)
    _add_buffers(held, training, trained, config, gpus)
    if config.get("rollout") is not None:
        held |= configs.build(config, "rollout").always(shape)
    frozen = _known(rewards)
    if (reference := _reference(shape, config, algorithm)) is not None:
        of_reference = bytes_of_weight(config.model.dtype) * reference.parameters
        if config.zero.stage == 3:  # partitioned, and never moved
            held["reference"] = of_reference / gpus
        else:
            frozen = {"reference": of_reference, **frozen}
    elif algorithm.reference_kind == "model":
        unknown.append("teacher")
    if config.get("rollout") is not None and config.rollout.offload_idle:
        more = (_resting(trained, config, gpus), _copied(shape, config))
        return MemoryEstimate(held, training, _known(writing), unknown, frozen, *more)
    return MemoryEstimate(held | frozen, training, _known(writing), unknown)


def _resting(trained: list[tuple[Shape, float, float]], config: DictConfig, gpus: int) -> dict[str, float]:
    """Return the bytes that leave the GPU during generation: a critic, and the policy except weights that generate."""
    rollout = configs.target_class(config, "rollout")
    if not rollout.shares_gpus:
        return {}
    zero, leaving = config.zero, dict[str, float]()
    for place, (_, learning, _) in enumerate(trained):
        given, whole = (learning, zero.stage, gpus, zero.offload_optimizer), not config.model.lora.rank
        leaving["states"] = leaving.get("states", 0.0) + resting_states(*given, bool(place) and whole)
        if not place and rollout.copies_weights and whole:
            leaving["policy's weights"] = resting_states(*given, True) - resting_states(*given, False)
    return leaving


def _copied(shape: Shape, config: DictConfig) -> float:
    """Return the bytes of an engine's own copy of the policy's weights; 0 for a rollout that makes no copy."""
    if not configs.target_class(config, "rollout").copies_weights:
        return 0.0
    return bytes_of_weight(config.model.dtype) * shape.parameters / config.rollout.get("tensor_parallel", 1)


def _add_buffers(
    held: dict[str, float],
    training: dict[str, float],
    trained: list[tuple[Shape, float, float]],
    config: DictConfig,
    gpus: int,
) -> None:
    """Add ZeRO's buffers of each engine, and the extra memory of a step; engines run backward passes one after another."""
    zero, adapters = config.zero, bool(config.model.lora.rank)
    parts = [
        bucket_memory(learning, whole, learning if adapters else shape.largest, zero.stage, gpus, zero.bucket_elements)
        for shape, learning, whole in trained
    ]
    if stays := sum(stay for stay, _ in parts):
        held["gathered weights and buckets"] = stays
    if backward := max(size for _, size in parts):
        training["buckets"] = backward
    if zero.stage == 2 and not zero.offload_optimizer:  # the step makes one tensor of the partition's gradients
        flat = 4 * max(learning for _, learning, _ in trained) / gpus
        if (more := flat - sum(training.values())) > 0:
            training["step"] = more


def _known(parts: dict[str, float | None]) -> dict[str, float]:
    return {name: bytes_ for name, bytes_ in parts.items() if bytes_ is not None}


def trained_parameters(shape: Shape, config: DictConfig) -> float:
    """Return the number of weights with optimizer state, over all models; a critic of unknown shape counts zero."""
    algorithm = configs.build(config, "algo")
    critic = _critic(shape, config, algorithm) if algorithm.critic_kind == "own" else None
    return learned_weights(shape, config) + (critic.scorer if critic else 0)


def _critic(shape: Shape, config: DictConfig, algorithm: Algorithm) -> Shape | None:
    begins_as = config.reward.get("path") if algorithm.critic_start == "reward" else None
    return shape_of(config, "reward", begins_as) if begins_as else shape


def _sharing(config: DictConfig, gpus: int) -> tuple[int, int, bool, bool, int]:
    zero = config.zero
    return zero.stage, gpus, zero.offload_optimizer, zero.offload_parameters, zero.hpz


def _tokens(config: DictConfig) -> int:
    return int(config.max_length if config.micro_batch_tokens == "auto" else config.micro_batch_tokens)


def learned_weights(shape: Shape, config: DictConfig) -> float:
    """Return the number of trained weights of the main model."""
    lora, scores = config.model.lora, configs.target_class(config, "algo").needs.main == "reward_model"
    if lora.rank:
        return shape.adapter(lora.rank, lora.targets) + (shape.hidden if scores else 0)
    return shape.scorer if scores else shape.parameters


def parts_of_states(shape: Shape, config: DictConfig, gpus: int) -> dict[str, float]:
    """Return the bytes of the main model's weights, gradients and optimizer state on a GPU: `held["states"]` in parts."""
    learning = learned_weights(shape, config)
    if not config.model.lora.rank:
        return state_parts(int(learning), shape.largest, *_sharing(config, gpus))
    scores = configs.target_class(config, "algo").needs.main == "reward_model"
    frozen = (shape.scorer if scores else shape.parameters) * (
        0.55 if config.model.quantise else bytes_of_weight(config.model.dtype)
    )
    held = frozen / (gpus if config.zero.stage == 3 else 1) + (frozen / config.zero.hpz if config.zero.hpz > 1 else 0.0)
    return {"weights": held + 6.0 * learning, "gradients": 4.0 * learning, "optimizer": 8.0 * learning}


def activation_bytes(shape: Shape, config: DictConfig) -> float:
    """Return the bfloat16 bytes that the backward pass of a micro-batch needs."""
    tokens = _tokens(config)
    layer = tokens * shape.kept()
    checkpoints = tokens * 2 * shape.hidden * shape.layers
    return layer + checkpoints if config.model.gradient_checkpointing else layer * shape.layers


def _reference(shape: Shape, config: DictConfig, algorithm: Algorithm) -> Shape | None:
    """Return the shape of the frozen reference that is kept next to a policy of `shape`; None if there is none or it is unknown.

    With adapters, the reference is the policy without them. Offline algorithms compute its values before the first step;
    then a copy is kept only for `eval.replies`.
    """
    kept = algorithm.reference_kind == "initial" if algorithm.needs.rollouts else config.eval.replies
    if algorithm.reference_kind == "model":
        return shape_of(config, "algo.teacher", config.algo.teacher.path)
    return shape if kept and not config.model.lora.rank else None


def _rewards(config: DictConfig) -> dict[str, float | None]:
    """Return the bytes of reward models in the training processes, as the reward reports them."""
    by_model: dict[str, float | None] = (
        configs.build(config, "reward").memory(config, "reward") if config.get("reward") is not None else {}
    )
    return by_model


def _writing(shape: Shape, config: DictConfig) -> dict[str, float | None]:
    """Return the additional bytes for generation, as the rollout reports them."""
    if config.get("rollout") is None:
        return {}
    plan = configs.build(config, "algo").round
    samples = plan.samples if plan else 1  # one reply to each held-out prompt
    by_part: dict[str, float | None] = configs.build(config, "rollout").memory(shape, config, samples)
    return by_part


def trained_shape(config: DictConfig) -> Shape | None:
    """Return the shape of the trained model; None if its size is unknown (`shape_of`)."""
    return shape_of(config, "model", config.model.path)
