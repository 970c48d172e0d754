"""Builds engines from a configuration: models are loaded, given adapters, wrapped and checked."""

import os
from typing import Any

import torch
from omegaconf import DictConfig

from psychocounsel.algo.base import Algorithm
from psychocounsel.distributed.world import World
from psychocounsel.engine.zero import Engine, deepspeed_config
from psychocounsel.errors import UserError
from psychocounsel.model.cpu import micro_batches_at_once, prepare_process
from psychocounsel.model.load import load_causal_lm, model_dtype, ready_to_train
from psychocounsel.model.lora import add_adapter
from psychocounsel.model.packed import Critic, PackedModel, Policy, RewardModel, check_packing
from psychocounsel.model.reward_head import HEAD, load_reward_lm, load_trained_reward_lm
from psychocounsel.model.tokenizer import load_chat_format
from psychocounsel.rollout.base import training_temperature


def build_engines(config: DictConfig, algorithm: Algorithm, world: World, tokenizer: Any) -> dict[str, Engine]:
    """Return the engines of all trained models by name, the main model's first.

    Raises:
        UserError: for the reasons given in `build_engine` and `build_critic`.
    """
    main = build_engine(config, algorithm, world, tokenizer)
    engines = {algorithm.needs.main: main}
    if algorithm.critic_kind == "own":
        engines["critic"] = build_critic(config, algorithm, world, tokenizer, main.at_once)
    return engines


def build_engine(config: DictConfig, algorithm: Algorithm, world: World, tokenizer: Any) -> Engine:
    """Return the engine of the algorithm's main model, with the weights of `model.path`.

    Raises:
        UserError: as in `load_model`, or if the model cannot be trained correctly on packed rows.
    """
    torch.manual_seed(config.seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products on GPU require it
    on_cpu = world.device.type == "cpu"
    torch.use_deterministic_algorithms(config.deterministic or on_cpu, warn_only=not config.deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # filling would write every new tensor twice
    dtype = model_dtype(config.model, world.device)
    if on_cpu:
        prepare_process(dtype)
    zero3 = _partitioning(config, algorithm, dtype)
    model = load_model(config, algorithm, dtype, zero3, world.device.type, tokenizer.pad_token_id)
    if algorithm.critic_kind == "shared":
        assert isinstance(model, Policy)
        model.add_value_head(dtype)
    at_once = micro_batches_at_once(config, model, model.drops, world.size, world.device)
    engine = Engine(model, config, algorithm, dtype, at_once)
    engine.train(False)
    check_packing(model, engine, dtype, world.device, config.model.path)
    return engine


def build_critic(config: DictConfig, algorithm: Algorithm, world: World, tokenizer: Any, at_once: int) -> Engine:
    """Return the critic's engine, which starts from the reward model, or from the policy with a new head.

    `at_once`: the number of micro-batches that the policy's engine computes at once.

    Raises:
        UserError: if the critic cannot be loaded or cannot be trained correctly on packed rows, the reward model has
            another tokenizer than the policy, or the critic has dropout and `at_once` > 1. Threads that draw random
            numbers at the same time do so in an order that differs between runs.
    """
    dtype = model_dtype(config.model, world.device)
    where, zero3 = world.device.type, _partitioning(config, algorithm, dtype)
    if algorithm.critic_start == "reward":
        theirs, _ = load_chat_format(config.reward, "reward", scores=False)
        if theirs.get_vocab() != tokenizer.get_vocab():
            raise UserError(
                f"algo.critic=reward: {config.reward.path} has another tokenizer than {config.model.path}; "
                "use algo.critic=policy"
            )
        lm, name = load_trained_reward_lm(config.reward, dtype, where, zero3), config.reward.path
        lm = ready_to_train(lm, config.model, where)
    else:
        lm, name = load_reward_lm(config.model, dtype, zero3, tokenizer.pad_token_id, where), config.model.path
        for parameter in getattr(lm, HEAD).parameters():
            # Random values would change the policy before the critic has learned anything.
            torch.nn.init.zeros_(getattr(parameter, "ds_tensor", parameter))
    model = Critic(lm, name, None, config.model.attention, world.device.type)
    if at_once > 1 and model.drops:
        raise UserError(
            f"{name}: the critic has dropout, which is not reproducible with two micro-batches at once; "
            "use engine.two_lanes=false"
        )
    engine = Engine(model, config, algorithm, dtype, at_once)
    engine.train(False)
    check_packing(model, engine, dtype, world.device, name)
    return engine


def build_reference(config: DictConfig, algorithm: Algorithm, world: World) -> PackedModel:
    """Return the frozen model of `model.path`, in memory in addition to the trained one.

    Stage 3 partitions it as well; all ranks then make the same number of passes together.

    Raises:
        UserError: as in `load_model`.
    """
    dtype = model_dtype(config.model, world.device)
    zero3 = _partitioning(config, algorithm, dtype)
    model = load_model(config, algorithm, dtype, zero3, world.device.type).requires_grad_(False).eval()
    if zero3 is None:
        return model.to(world.device)
    import deepspeed

    deepspeed.initialize(model=model, config=zero3)  # gathers each layer's weights for its pass
    return model


def _partitioning(config: DictConfig, algorithm: Algorithm, dtype: torch.dtype) -> dict[str, Any] | None:
    """Return DeepSpeed's configuration at stage 3, by which models are partitioned while they are loaded; otherwise None."""
    return deepspeed_config(config, algorithm, dtype) if config.zero.stage == 3 else None


def load_model(
    config: DictConfig,
    algorithm: Algorithm,
    dtype: torch.dtype,
    zero3: dict[str, Any] | None,
    device: str = "cpu",
    pad_token_id: int | None = None,
) -> PackedModel:
    """Return the algorithm's main model before training, for use on `device`.

    It has LoRA adapters if `model.lora.rank` is set. `zero3`: a DeepSpeed configuration that partitions the weights
    while they are loaded, or None. `pad_token_id`: for a reward model.

    Raises:
        UserError: if the model cannot be loaded, lacks the layers of `model.lora.targets`, or does not support
            `model.attention`.
    """
    model, adapter = config.model, None
    scores = algorithm.needs.main == "reward_model"
    if scores:
        middle = sum(config.data.rating_range) / 2
        names, unrated = algorithm.score_names, algorithm.unrated
        lm = load_reward_lm(model, dtype, zero3, pad_token_id, device, names, middle, unrated)
    else:
        lm = load_causal_lm(model, dtype, zero3, device)
    if model.lora.rank:
        torch.manual_seed(config.seed)  # the same initial adapters, however many random numbers loading drew
        lm, adapter = add_adapter(lm, model.lora, HEAD if scores else None)
        for parameter in lm.parameters():  # peft makes float32 adapters for four-bit weights
            parameter.data = parameter.data.to(dtype) if parameter.requires_grad else parameter.data
    common = (lm, model.path, adapter, model.attention, device)
    return RewardModel(*common) if scores else Policy(*common, training_temperature(config))
