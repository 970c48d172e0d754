"""Corrected settings of a run that has made no step: the same run directory takes them, and the run starts afresh."""

from pathlib import Path

from omegaconf import DictConfig

from psychocounsel.cluster.ending.unbegun import made_no_step
from psychocounsel.rundir import identity
from psychocounsel.rundir.run_config import module_of

_LENGTHS = ("max_steps", "epochs")
_MOST_SHOWN = 6  # keys


def correction(module: str, config: DictConfig, before: DictConfig, run_dir: Path) -> str:
    """Return the keys in which `config` is not the recorded run `before`, with both values; "" if it is that run.

    A run of another module, or one that has made a step, cannot be corrected: then "" is returned as well. So it is for
    a command that works in steps, because its steps may have other settings at any time.
    """
    if "steps" in config or module_of(run_dir) != module or not made_no_step(run_dir):
        return ""
    new, old = identity.identity(config), identity.identity(before)
    keys = [*identity.differing(new, old), *(key for key in _LENGTHS if _is_shorter(config.get(key), before.get(key)))]
    new, old = ({**flat, **{key: of.get(key) for key in _LENGTHS}} for flat, of in ((new, config), (old, before)))
    more = f" and {len(keys) - _MOST_SHOWN} more" if len(keys) > _MOST_SHOWN else ""
    return ", ".join(f"{key} was {old.get(key)}, now {new.get(key)}" for key in keys[:_MOST_SHOWN]) + more


def _is_shorter(new: float | None, old: float | None) -> bool:
    """True for a length that a run with steps could not take."""
    return old is not None and new is not None and new < old
