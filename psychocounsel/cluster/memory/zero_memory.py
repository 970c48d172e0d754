"""GPU memory of DeepSpeed's ZeRO in bytes: states of a trained model, and buffers."""

_LIVE = 1_050_000_000  # weights that stage 3 gathers at once: stage3_max_live_parameters plus a prefetch bucket
_ENGINE_BUCKET = 500_000_000  # gradients that DeepSpeed's engine reduces at once, at stages 0 and 1


def model_states(
    parameters: int,
    largest: int,
    stage: int,
    gpus: int,
    offload_optimizer: bool = False,
    offload_parameters: bool = False,
) -> float:
    """Return bytes per GPU of weights, gradients and Adam's state in mixed precision; gradients are accumulated in float32.

    Stages 2 and 3 follow DeepSpeed's own estimators (`estimate_zero2_...`, `estimate_zero3_model_states_mem_needs`).
    Stage 0 keeps everything whole, like stage 1 on one GPU. At stage 1, DeepSpeed's bfloat16 optimizer keeps whole weights
    and whole float32 gradients.
    """
    return sum(state_parts(parameters, largest, stage, gpus, offload_optimizer, offload_parameters).values())


def state_parts(
    parameters: int,
    largest: int,
    stage: int,
    gpus: int,
    offload_optimizer: bool = False,
    offload_parameters: bool = False,
) -> dict[str, float]:
    """Return `model_states` by part. Weights are the copies used in forward passes; master weights count as optimizer state."""
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
    return {"weights": 4.0 * largest + copies, "gradients": gradients, "optimizer": adam}


def resting_states(parameters: float, stage: int, gpus: int, offload_optimizer: bool, weights: bool) -> float:
    """Return a lower bound of the bytes of `model_states` that leave a GPU during generation (`rollout.offload_idle`).

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
