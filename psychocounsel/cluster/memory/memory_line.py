"""The memory estimate in words: for dry runs, errors, and the first line of a run."""

from collections.abc import Sequence

from omegaconf import DictConfig

from psychocounsel.cluster.memory.fitting import advice, choose, fits, is_open, on_gpus_of, with_values
from psychocounsel.cluster.memory.gpu_memory import RUNTIME, estimate, parts_of_states, trained_shape
from psychocounsel.errors import UserError


def memory_line(config: DictConfig, gpus: int, limit_gb: float | None) -> str:
    """Return the memory of a checked configuration on each of `gpus` GPUs of `limit_gb` (None: unknown), in one line."""
    shape, name = trained_shape(config), config.model.name
    if shape is None:
        return f"{name}: memory unknown, because the config.json of model.path={config.model.path} is not here"
    said, keys = "", is_open(config)
    if keys and limit_gb:
        config = with_values(config, choose(shape, config, gpus, limit_gb))
        said = f"; auto chooses {chosen_words(config, keys)}"
    elif "zero.stage" in keys:
        return f"{name}: zero=auto is chosen when the run starts (cluster=slurm cluster.gpu_memory_gb=80 shows it here)"
    elif keys:
        said = f"; {keys[0]}=auto is counted as true; it becomes false if memory allows (cluster.gpu_memory_gb=80 shows it)"
    found = estimate(shape, on_gpus_of(config, limit_gb) if limit_gb else config, gpus)
    states = {name: bytes_ for name, bytes_ in parts_of_states(shape, config, gpus).items() if bytes_}
    held = states | {name: bytes_ for name, bytes_ in found.held.items() if name != "states"} | {"runtime": RUNTIME}
    parts = [
        ("", held),
        ("to train: ", found.training),
        ("to generate replies: ", found.writing),
        ("to use frozen models: ", found.asked),
    ]
    parts.append(("freed while replies are generated: ", found.resting))
    listed = "; ".join(
        f"{when}{', '.join(f'{part} {bytes_ / 1e9:.1f}' for part, bytes_ in members.items())}"
        for when, members in parts
        if members
    )
    of = f" of {limit_gb:g} GB" if limit_gb else ""
    count = "1 GPU" if gpus == 1 else f"{gpus} GPUs"
    line = f"{name}: memory on each of {count}: about {found.total / 1e9:.0f} GB{of} ({listed})"
    if found.unknown:
        line += f", without {' and '.join(found.unknown)}, whose size is unknown"
    line += said
    if limit_gb and not fits(shape, config, gpus, limit_gb):
        line += f"; MORE THAN cluster.gpu_memory_gb={limit_gb:g}. {what_fits(config, gpus, limit_gb)}"
    return line


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
