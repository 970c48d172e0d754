"""The memory estimate in words, for dry runs and errors, and the decisions of a rank before it loads a model."""

import math
import os
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from psychocounsel.cluster.memory.cpu import cpu_memory_line
from psychocounsel.cluster.memory.fitting import (
    AUTOMATIC,
    SHARE,
    advice,
    choose,
    fits,
    is_open,
    on_gpus_of,
    with_values,
)
from psychocounsel.cluster.memory.gpu import (
    RUNTIME,
    estimate,
    parts_of_states,
    trained_shape,
)
from psychocounsel.cluster.memory.host import UNKNOWN, Machines, fits_host, host_parts
from psychocounsel.errors import UserError
from psychocounsel.rundir.run import Run
from psychocounsel.rundir.run_config import write_config
from psychocounsel.search.settling import await_rank_0
from psychocounsel.settings import config as configs
from psychocounsel.settings.command import Command
from psychocounsel.storage.files import with_noun

_USUAL_GB = (40.0, 80.0, 141.0)  # sizes of data-centre GPUs: A100, A100 or H100, H200


def memory_line(config: DictConfig, gpus: int, limit_gb: float | None, machines: Machines = UNKNOWN) -> str:
    """Return the memory of a checked configuration on each of `gpus` GPUs of `limit_gb` (None: unknown), in one line."""
    shape, name = trained_shape(config), config.model.name
    if shape is None:
        return f"{name}: memory unknown, because the config.json of model.path={config.model.path} is not here"
    note, keys = "", is_open(config)
    if keys and limit_gb:
        config = with_values(config, choose(shape, config, gpus, limit_gb, machines))
        note = f"; auto chooses {chosen_words(config, keys)}{_reason(config, keys, limit_gb)}"
    elif "zero.stage" in keys:
        sizes = [(size, with_values(config, choose(shape, config, gpus, size, machines))) for size in _USUAL_GB]
        listed = ", ".join(f"{size:g} GB: {chosen_words(chosen, keys)}" for size, chosen in sizes)
        return f"{name}: zero=auto is chosen when the run starts, on {with_noun(gpus, 'GPU')} of {listed}"
    elif keys:
        note = f"; {keys[0]}=auto is counted as true; it becomes false if memory allows (cluster.gpu_memory_gb=80 shows it)"
    memory = estimate(shape, on_gpus_of(config, limit_gb) if limit_gb else config, gpus)
    states = {name: bytes_ for name, bytes_ in parts_of_states(shape, config, gpus).items() if bytes_}
    held = states | {name: bytes_ for name, bytes_ in memory.held.items() if name != "states"} | {"runtime": RUNTIME}
    parts = [
        ("", held),
        ("to train: ", memory.training),
        ("to generate replies: ", memory.writing),
        ("to use frozen models: ", memory.frozen),
    ]
    parts.append(("freed while replies are generated: ", memory.resting))
    listed = "; ".join(
        f"{when}{', '.join(f'{part} {bytes_ / 1e9:.1f}' for part, bytes_ in members.items())}"
        for when, members in parts
        if members
    )
    of = f" of {limit_gb:g} GB" if limit_gb else ""
    line = f"{name}: memory on each of {with_noun(gpus, 'GPU')}: about {memory.total / 1e9:.0f} GB{of} ({listed})"
    if memory.unknown:
        line += f", without {' and '.join(memory.unknown)}, whose size is unknown"
    line += note
    if limit_gb and not fits(shape, config, gpus, limit_gb):
        line += f"; MORE THAN cluster.gpu_memory_gb={limit_gb:g}. {what_fits(config, gpus, limit_gb)}"
    return line


def _reason(config: DictConfig, keys: Sequence[str], limit_gb: float) -> str:
    """Return why `config` has the values chosen for `keys`."""
    if "model.gradient_checkpointing" not in keys:
        return ", the first that fits"
    if config.model.gradient_checkpointing:
        return f", because all activations would need more than {SHARE * limit_gb:.0f} GB"
    return f", the first with all activations in at most {SHARE * limit_gb:.0f} GB"


def zero_words(config: DictConfig) -> str:
    """Return the chosen values of `zero`, as overrides to type."""
    zero = config.zero
    offloads = [f"zero.{name}=true" for name in ("offload_optimizer", "offload_parameters") if zero[name]]
    return " ".join([f"zero.stage={zero.stage}", *offloads])


def chosen_words(config: DictConfig, keys: Sequence[str]) -> str:
    """Return the values chosen for the `keys` that were `auto`, as overrides to type."""
    checkpointing = "model.gradient_checkpointing"
    words = [zero_words(config)] if "zero.stage" in keys else []
    if checkpointing in keys:
        words.append(f"{checkpointing}={str(config.model.gradient_checkpointing).lower()}")
    return " ".join(words)


def what_fits(config: DictConfig, gpus: int, limit_gb: float) -> str:
    """Return a sentence with the smallest change that makes a run fit."""
    shape = trained_shape(config)
    fitting = advice(shape, config, gpus, limit_gb) if shape else []
    return f"This would fit: {fitting[0]}" if fitting else "No setting makes it fit: use more GPUs"


def refuse_too_large(config: DictConfig, gpus: int, limit_gb: float) -> None:
    """Refuse a run that does not fit GPUs of `limit_gb`; models of unknown size are accepted.

    Raises:
        UserError: with the needed memory and the settings to type.
    """
    shape = trained_shape(config)
    if shape is None or fits(shape, config, gpus, limit_gb):
        return
    needed = estimate(shape, on_gpus_of(config, limit_gb), gpus).total / 1e9
    raise UserError(
        f"{config.model.name} with {zero_words(config)} needs about {needed:.0f} GB on each of {gpus} GPUs, which have "
        f"{limit_gb:.0f}. {what_fits(config, gpus, limit_gb)} (engine.check_memory=false starts it anyway)"
    )


# Host memory in words.


def host_line(config: DictConfig, gpus: int, machines: Machines, gpu_gb: float | None) -> list[str]:
    """Return a line with the host memory on each of `machines` of a run on `gpus` GPUs; none if it is unknown.

    `gpu_gb`: size of a GPU, by which values for `auto` are chosen; None: unknown.
    """
    shape = trained_shape(config)
    if shape is None or ("zero.stage" in is_open(config) and not gpu_gb):
        return []
    config = with_values(config, choose(shape, config, gpus, gpu_gb or 0.0, machines))
    parts, limit = host_parts(shape, config, gpus, machines.count), machines.memory
    total, of = sum(parts.values()), f" of {limit / 1e9:.0f} GB" if limit else ""
    where = "the machine" if machines.count == 1 else f"each of {machines.count} machines"
    listed = ", ".join(f"{part} {bytes_ / 1e9:.1f}" for part, bytes_ in parts.items())
    line = f"{config.model.name}: host memory on {where}: about {total / 1e9:.0f} GB{of} ({listed})"
    return [f"{line}; MORE THAN {_offer(config)}. {_less(config, total)}" if limit and total > limit else line]


def refuse_too_little(config: DictConfig, gpus: int, machines: Machines) -> None:
    """Refuse a run that needs more host memory than its machines have; accept it if their size, or the model's, is unknown.

    Raises:
        UserError: with the needed memory and what to type.
    """
    shape = trained_shape(config)
    if shape is None or fits_host(shape, config, gpus, machines):
        return
    total = sum(host_parts(shape, config, gpus, machines.count).values())
    raise UserError(
        f"{config.model.name} needs about {total / 1e9:.0f} GB of host memory on each machine, more than "
        f"{_offer(config)}. {_less(config, total)} (engine.check_memory=false starts it anyway)"
    )


def _offer(config: DictConfig) -> str:
    memory, per = config.cluster.get("memory"), config.cluster.get("memory_per", "node")
    return f"cluster.memory={memory}{f' per {per}' if per != 'node' else ''}" if memory else "this machine has"


def _less(config: DictConfig, total: float) -> str:
    """Return what to type instead."""
    memory, per = config.cluster.get("memory"), config.cluster.get("memory_per", "node")
    typed = (
        [f"cluster.memory={math.ceil(total / 2**30)}G{' cluster.memory_per=node' if per != 'node' else ''}"]
        if memory
        else []
    )
    if config.get("rollout") is not None and config.rollout.offload_idle:
        typed += ["zero=2"] if config.zero.stage == 1 else []  # stage 1 moves whole float32 gradients
        typed.append("rollout.offload_idle=false")
    if config.checkpoint.background:
        typed.append("checkpoint.background=false")
    return f"Use {' or '.join(typed)}" if typed else "Use more machines"


# Decisions of a rank before it loads a model.


def fitted_work(run: Run, command: Command) -> int:
    """Choose values for `auto`, refuse a training that does not fit, then do the command's work and return its exit code.

    Rank 0 chooses by its own GPU and writes `config.yaml` once; the other ranks wait for it. A resumed run has the
    choice in its configuration.

    Raises:
        UserError: if the run does not fit this GPU by the estimate, with the settings to type.
        GoOnLater: if rank 0 does not choose in time.
    """
    if command.trains:
        limit_gb = _gpu_gigabytes()
        gpus = run.processes if limit_gb else 0
        cluster = configs.build(run.config, "cluster")
        machines = Machines(cluster.machines(run.processes), cluster.host_memory())
        if is_open(run.config):
            settle(run, gpus, limit_gb, machines) if run.is_main else await_rank_0(run, is_open, "the values of auto")
        if gpus and run.config.engine.check_memory:
            refuse_too_large(run.config, gpus, limit_gb)
            refuse_too_little(run.config, gpus, machines)
        if run.is_main and not run.config.model.path.startswith("builtin:"):
            run.say(memory_line(run.config, gpus, limit_gb) if gpus else cpu_memory_line(run.config, run.processes))
            for line in host_line(run.config, gpus, machines, limit_gb) if gpus else []:
                run.say(line)
    return command.work(run)


def settle(run: Run, gpus: int, limit_gb: float, machines: Machines = UNKNOWN) -> None:
    """Write the values chosen for `auto` into the run's configuration, permanently."""
    keys = is_open(run.config)
    run.config = with_values(run.config, choose(trained_shape(run.config), run.config, gpus, limit_gb, machines))
    write_config(run.dir, run.config)
    where = f"{with_noun(gpus, 'GPU')} of {limit_gb:.0f} GB" if gpus else "CPU"
    run.say(f"auto: {chosen_words(run.config, keys)} for {where}, fixed for this run")


def keep_chosen(config: DictConfig, before: DictConfig) -> None:
    """Keep the values that a resumed run chose for `auto` at its first start."""
    for key in is_open(config):
        for name in AUTOMATIC[key]:
            OmegaConf.update(config, name, OmegaConf.select(before, name))


def _gpu_gigabytes() -> float:
    """Return the memory of this rank's GPU in GB; 0 on CPU."""
    if os.environ.get("PSYCHOCOUNSEL_DEVICE", "cpu") != "cuda":
        return 0.0
    import torch

    from psychocounsel.distributed.gpu import own_gpu, require_gpu

    require_gpu()
    local_rank = int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")))
    number = own_gpu(local_rank, torch.cuda.device_count())
    return float(torch.cuda.get_device_properties(number).total_memory / 1e9)
