"""From a configuration to engines: load, wrap, check."""

import os

import torch
from omegaconf import DictConfig

from psychocounsel.algo.base import Algorithm
from psychocounsel.engine.distributed import World
from psychocounsel.engine.zero import Engine, deepspeed_config, weights_dtype
from psychocounsel.model.load import load_causal_lm, model_dtype
from psychocounsel.model.policy import Policy
from psychocounsel.model.probe import check_packing


def build_policy(config: DictConfig, algorithm: Algorithm, world: World) -> Engine:
    """The engine of the policy, with the weights of `model.path`.

    Raises:
        UserError: if the model cannot be loaded, or not be trained correctly on packed rows.
    """
    torch.manual_seed(config.seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic matrix products on GPU ask for
    on_cpu = world.device.type == "cpu"
    torch.use_deterministic_algorithms(config.deterministic or on_cpu, warn_only=not config.deterministic)
    dtype = model_dtype(config.model, world.device)
    zero3 = deepspeed_config(config, algorithm, dtype) if config.zero.stage == 3 else None
    lm = load_causal_lm(config.model, weights_dtype(config, dtype), zero3)
    policy = Policy(lm, config.model.path, algorithm.temperature)
    engine = Engine(policy, config, algorithm, dtype)
    engine.train(False)
    check_packing(policy, engine, dtype, world.device, config.model.path)
    return engine
