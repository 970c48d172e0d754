"""`micro_batch_tokens=auto`: how many tokens fit in memory at once, measured before training, beside all models of the run."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from psychocounsel.data.batch import build_batch
from psychocounsel.data.group import Completion, Group
from psychocounsel.distributed.world import World
from psychocounsel.engine.step import Stepper
from psychocounsel.errors import UserError
from psychocounsel.model.cpu import return_freed_memory
from psychocounsel.rundir.run import Run
from psychocounsel.rundir.run_config import write_config

_SHARE = 0.85  # of the free memory: other work needs some, and so does its division into blocks
_CPU_TOKENS = 2048  # twice as many were no faster, and need more memory
_STEP = 256
_CGROUP = Path("/sys/fs/cgroup")


def micro_batch_tokens(run: Run, stepper: Stepper, groups: Sequence[Group]) -> int:
    """The tokens of a micro-batch; where `auto` stands for them, measured and put into the run's config for good.

    Prompts of an algorithm with rollouts are measured with replies as long as they may become.
    """
    config = run.config
    if config.micro_batch_tokens == "auto":
        if plan := stepper.algorithm.round:
            groups = [_with_replies(group, plan.trained or plan.samples, config) for group in groups]
        config.micro_batch_tokens = fitting_tokens(stepper, groups, config.global_batch_size, config.max_length)
        run.say(f"micro_batch_tokens=auto: {config.micro_batch_tokens} tokens fit, and stay so in this run")
        if run.is_main:
            write_config(run.dir, config)
    return int(config.micro_batch_tokens)


def _with_replies(group: Group, count: int, config: DictConfig) -> Group:
    length = max(1, min(config.rollout.max_tokens, config.max_length - len(group.prompt_ids)))
    return replace(group, completions=[Completion(np.zeros(length, np.int32)) for _ in range(count)])


def fitting_tokens(stepper: Stepper, groups: Sequence[Group], batch_size: int, max_length: int) -> int:
    """The most tokens that a micro-batch may have: as many as fit, or as many as a global batch has.

    The number is at least `max_length` if so many fit, so that a user may type it into the next run's configuration.

    Two passes of all engines forward and backward over the longest groups, the second with twice the tokens of the first,
    tell what a token needs. Weights, optimizer state and gradients are there by then; nothing of the model is changed.

    Raises:
        UserError: if the longest group alone does not fit.
    """
    world = stepper.world
    longest = sorted(groups, key=lambda group: -group.tokens)
    most = math.ceil(sum(group.tokens for group in longest[:batch_size]) / world.size)
    if world.device.type == "cpu":
        most = min(most, _CPU_TOKENS)
    one, two = longest[:1], longest[:2]
    needed = [max(world.gather(_needed_bytes(stepper, some))) for some in (one, one, two)][1:]
    limit = min(world.gather(_SHARE * _memory_bytes(world)))
    tokens = [sum(group.tokens for group in some) for some in (one, two)]
    per_token = max(1.0, (needed[1] - needed[0]) / max(1, tokens[1] - tokens[0]))
    fitting = tokens[0] + math.floor((limit - needed[0]) / per_token)
    if fitting < tokens[0]:
        raise UserError(
            f"micro_batch_tokens=auto: the longest row ({tokens[0]} tokens) does not fit into {limit / 1e9:.1f} GB; try "
            "model.gradient_checkpointing=true, zero=2 or 3 over more processes, model.lora.rank=16, or a smaller max_length"
        )
    return max(tokens[0], min(most, fitting) // _STEP * _STEP, min(max_length, fitting))


def _needed_bytes(stepper: Stepper, groups: Sequence[Group]) -> int:
    """Peak memory of this process over a pass forward and backward."""
    attention, device = stepper.main.module.attention, stepper.world.device
    rows = [list(groups)] if attention.one_row else [[group] for group in groups]
    batch = build_batch(rows, weight=0.0, multiple=attention.multiple).to(device)
    _forget_peak(device)
    try:
        stepper.rehearse(batch)
    except torch.OutOfMemoryError:
        return 1 << 62
    return _peak_bytes(device)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        return_freed_memory()
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _kilobytes("/proc/self/status", "VmHWM") * 1024


def _memory_bytes(world: World) -> float:
    """Memory that this process may use: what it has, and its share of what is free."""
    if world.device.type == "cuda":
        return torch.cuda.mem_get_info(world.device)[0] + torch.cuda.memory_reserved(world.device)
    here = world.gather(os.uname().nodename).count(os.uname().nodename)
    free = min(_kilobytes("/proc/meminfo", "MemAvailable") * 1024, _free_in_cgroup())
    return _kilobytes("/proc/self/status", "VmRSS") * 1024 + free / here


def _free_in_cgroup() -> float:
    """What the scheduler or container that runs this process leaves it."""
    try:
        limit, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # there is none, or its limit is the word "max"
        return math.inf
    return limit - used


def _kilobytes(file: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(file).read_text(), re.MULTILINE)
    if found is None:
        raise UserError(f"micro_batch_tokens=auto: {file} does not tell {name} on this system; give a number")
    return int(found[1])
