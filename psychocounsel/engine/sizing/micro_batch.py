"""`micro_batch_tokens=auto`: a size that fits in memory next to all models of the run, and saves enough time for its memory."""

import math
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from psychocounsel.data.batch import Batch, build_batch
from psychocounsel.data.group import Completion, Group
from psychocounsel.data.packing import computed_tokens
from psychocounsel.distributed.world import World
from psychocounsel.engine.sizing.kept_measures import KeptMeasure, TokenMemory
from psychocounsel.engine.step import Stepper
from psychocounsel.errors import UserError
from psychocounsel.model.cpu import free_bytes, return_freed_memory
from psychocounsel.rundir.run import Run
from psychocounsel.rundir.run_config import write_config
from psychocounsel.settings.targets import build

# Peak and usable memory of this process


def forget_peak(device: torch.device) -> None:
    """Restart the measurement of `peak_bytes`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        return_freed_memory()
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Return the peak memory of this process since `forget_peak` [bytes]: allocated on the GPU, or resident in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _kilobytes("VmHWM") * 1024


def usable_bytes(world: World) -> float:
    """Return the memory that this process may use [bytes]: the memory it has, and its share of the free memory.

    All ranks call it together.

    Raises:
        UserError: if the system does not report its memory in /proc.
    """
    if world.device.type == "cuda":
        return torch.cuda.mem_get_info(world.device)[0] + torch.cuda.memory_reserved(world.device)
    return _kilobytes("VmRSS") * 1024 + free_bytes() / world.on_this_machine()


def _kilobytes(name: str) -> int:
    file = Path("/proc/self/status")
    match = re.search(rf"^{name}:\s+(\d+) kB", file.read_text(), re.MULTILINE)
    if match is None:
        raise UserError(f"micro_batch_tokens=auto: {file} has no line {name} on this system; give a number")
    return int(match[1])


# Memory that a token of a micro-batch needs, measured by three short passes of all trained models

SHORT, LONG = 64, 512  # tokens of the two measured micro-batches
_TOO_MUCH = float(1 << 62)  # peak of a pass that ran out of memory


def measure(stepper: Stepper, longest: Group, step_tokens: int) -> TokenMemory:
    """Return the memory of a process, measured with a short and a longer micro-batch.

    Both run forward, backward and through the optimizers; the models stay as they are. An earlier pass creates the
    optimizers' state. `longest` is the longest group and `step_tokens` the tokens of this process in an optimizer step.
    All passes together take less time than such a step, because they have fewer tokens. The largest need of all ranks
    counts.
    """
    world, attention = stepper.world, stepper.main.module.attention
    short = _groups(longest, SHORT, True)
    long = _groups(longest, max(2 * SHORT, min(LONG, step_tokens // 4)), attention.one_row)
    _, *needed = [max(world.gather(_peak(stepper, first, short))) for first in (short, short, long)]
    tokens = [sum(group.tokens for group in groups) for groups in (short, long)]
    per_token = max(1.0, (needed[1] - needed[0]) / max(1, tokens[1] - tokens[0]))
    others = (stepper.main.at_once - 1) * tokens[0]  # tokens of other micro-batches, in memory at the same time
    return TokenMemory(max(0.0, needed[1] - per_token * (tokens[1] + others)), per_token)


def _groups(group: Group, tokens: int, may_cut: bool) -> list[Group]:
    """Return copies of `group` with about `tokens` tokens in all. They are whole unless `may_cut`.

    `may_cut` must be false where memory is not linear in a row's length.
    """
    if not may_cut or group.tokens <= tokens:
        return [group] * max(1, tokens // group.tokens)
    share = tokens / group.tokens
    completions = [completion.cut(max(1, int(len(completion.ids) * share))) for completion in group.completions]
    prompt = group.prompt_ids[: max(1, int(len(group.prompt_ids) * share))]
    return [replace(group, prompt_ids=prompt, completions=completions)]


def _peak(stepper: Stepper, first: Sequence[Group], others: Sequence[Group]) -> float:
    """Return the peak memory of a pass over `first` [bytes]; micro-batches computed at the same time have `others`."""
    device, at_once = stepper.world.device, stepper.main.at_once
    batches = [_batch(stepper, groups) for groups in [first, *[others] * (at_once - 1)]]
    forget_peak(device)
    try:
        stepper.rehearse(batches)
    except torch.OutOfMemoryError:
        return _TOO_MUCH
    return float(peak_bytes(device))


def _batch(stepper: Stepper, groups: Sequence[Group]) -> Batch:
    attention = stepper.main.module.attention
    rows = [list(groups)] if attention.one_row else [[group] for group in groups]
    return build_batch(rows, weight=0.0, multiple=attention.multiple).to(stepper.world.device)


# The choice of the size

_SHARE = 0.85  # share of the usable memory: other work needs some, and the heap has gaps
_CPU_TOKENS = 2048  # largest size on CPU: twice as many were no faster
_STEP = 256
_OVERHEAD = 64  # tokens that take as long as the fixed work of a micro-batch on CPU
_EXCHANGE = 0.5  # a larger micro-batch must save this many per cent of time for each per cent of added memory


def micro_batch_tokens(run: Run, stepper: Stepper, groups: Sequence[Group]) -> int:
    """Return the tokens of a micro-batch; `auto` is replaced permanently by a number in the run's configuration.

    Prompts of an algorithm with rollouts are measured with the longest replies that they may get.

    Raises:
        UserError: if the longest group alone does not fit, or memory cannot be measured on this system.
    """
    config = run.config
    if config.micro_batch_tokens == "auto":
        if plan := stepper.algorithm.round:
            groups = [_with_replies(group, plan.trained or plan.samples, config) for group in groups]
        memory, source = _token_memory(config, stepper, groups)
        tokens = chosen_tokens(stepper, groups, memory, config.global_batch_size, config.max_length)
        config.micro_batch_tokens = tokens
        gigabytes = memory.bytes_of(max(tokens, _tokens_at_once(stepper, groups))) / 1e9
        run.say(
            f"micro_batch_tokens=auto: {tokens} tokens, about {gigabytes:.1f} GB per process ({source}); "
            "this run keeps the number"
        )
        if run.is_main:
            write_config(run.dir, config)
    return int(config.micro_batch_tokens)


def _token_memory(config: DictConfig, stepper: Stepper, groups: Sequence[Group]) -> tuple[TokenMemory, str]:
    """Return the memory per token, and its source in words. Rank 0 reads it from the cache; otherwise it is measured and kept."""
    world = stepper.world
    kept = KeptMeasure(config, stepper)
    known: TokenMemory | None = world.broadcast(kept.read() if world.rank == 0 else None)
    if known is not None:
        return known, "from the cache"
    started = time.perf_counter()
    memory = measure(stepper, longest_of(groups), step_tokens(groups, config.global_batch_size, world.size))
    if world.rank == 0:
        kept.write(memory)
    return memory, f"measured in {time.perf_counter() - started:.0f} s"


def _with_replies(group: Group, count: int, config: DictConfig) -> Group:
    longest = build(config, "rollout").longest_reply(config)
    length = max(1, min(longest, config.max_length - len(group.prompt_ids)))
    return replace(group, completions=[Completion(np.zeros(length, np.int32)) for _ in range(count)])


def longest_of(groups: Sequence[Group]) -> Group:
    return max(groups, key=lambda group: group.tokens)


def step_tokens(groups: Sequence[Group], batch_size: int, processes: int) -> int:
    """Return the tokens that a process has in a global batch of the longest groups."""
    lengths = sorted((group.tokens for group in groups), reverse=True)
    return math.ceil(sum(lengths[:batch_size]) / processes)


def chosen_tokens(
    stepper: Stepper, groups: Sequence[Group], memory: TokenMemory, batch_size: int, max_length: int
) -> int:
    """Return a number of tokens that fits in memory.

    It is at least the longest row, and at least `max_length` if that fits, so that it may be typed in the next run's
    configuration. Beyond these, a process's share of the global batch is the limit: on GPU the largest number that fits
    is chosen, and on CPU the largest that saves enough time for its memory (`_worth`).

    Raises:
        UserError: if the longest group alone does not fit.
    """
    world = stepper.world
    limit = min(world.gather(_SHARE * usable_bytes(world)))
    longest, fitting = longest_of(groups).tokens, memory.tokens_in(limit)
    if fitting < _tokens_at_once(stepper, groups):
        one_at_once = "engine.two_lanes=false, " if stepper.main.at_once > 1 else ""
        raise UserError(
            f"micro_batch_tokens=auto: the longest row ({longest} tokens) does not fit into {limit / 1e9:.1f} GB; try "
            f"{one_at_once}model.gradient_checkpointing=true, zero=2 or 3 over more processes, model.lora.rank=16, or a smaller "
            "max_length"
        )
    least = max(longest, min(max_length, fitting))
    most = min(step_tokens(groups, batch_size, world.size), fitting)
    if world.device.type == "cuda":
        return max(least, most // _STEP * _STEP)
    larger = range(least // _STEP * _STEP + _STEP, min(most, _CPU_TOKENS) + 1, _STEP)
    return _worth(stepper, groups, batch_size, memory, [least, *larger])


def _typical_step(groups: Sequence[Group], batch_size: int) -> list[int]:
    """Return the lengths of a global batch that has groups of all lengths [tokens]."""
    lengths = sorted(group.tokens for group in groups)
    return lengths[:: max(1, len(lengths) // batch_size)][:batch_size]


def _tokens_at_once(stepper: Stepper, groups: Sequence[Group]) -> int:
    """Return the tokens of the longest rows, one for each micro-batch that is computed at once."""
    return sum(sorted((group.tokens for group in groups), reverse=True)[: stepper.main.at_once])


def _worth(
    stepper: Stepper, groups: Sequence[Group], batch_size: int, memory: TokenMemory, sizes: Sequence[int]
) -> int:
    """Return the largest of `sizes`, in ascending order, that saves enough time for its memory.

    A step takes as long as its tokens and `_OVERHEAD` more for each micro-batch. A larger size is chosen if the share of
    time that it saves is at least `_EXCHANGE` times the share by which the memory of the process grows.
    """
    lengths, rows = _typical_step(groups, batch_size), _tokens_at_once(stepper, groups)

    def seconds(tokens: int) -> float:
        return computed_tokens(stepper.plan(lengths, tokens), lengths, _OVERHEAD)

    chosen = sizes[0]
    for size in sizes[1:]:
        saved = 1 - seconds(size) / seconds(chosen)
        added = memory.bytes_of(max(size, rows)) / memory.bytes_of(max(chosen, rows)) - 1
        if saved > 0 and saved >= _EXCHANGE * added:
            chosen = size
    return chosen
