"""Corrected settings for a run that has made no step: its run directory takes them, and the run restarts."""

from pathlib import Path

from omegaconf import DictConfig

from psychocounsel.cluster.ending.unbegun import made_no_step
from psychocounsel.rundir import identity
from psychocounsel.rundir.run_config import module_of

_LENGTHS = ("max_steps", "epochs")
_MOST_SHOWN = 6  # keys


def correction(module: str, config: DictConfig, before: DictConfig, run_dir: Path) -> str:
    """Return the changed keys that the recorded run `before` would refuse on resume, with both values; "" without any.

    The result is also "" for a run that cannot be corrected, because another module made it or it has made a step; and for
    commands that work in steps, because their settings may change at any time.
    """
    if "steps" in config or module_of(run_dir) != module or not made_no_step(run_dir):
        return ""
    new, old = identity.identity(config), identity.identity(before)
    keys = [*identity.differing(new, old), *(key for key in _LENGTHS if _is_shorter(config.get(key), before.get(key)))]
    new, old = ({**flat, **{key: of.get(key) for key in _LENGTHS}} for flat, of in ((new, config), (old, before)))
    more = f" and {len(keys) - _MOST_SHOWN} more" if len(keys) > _MOST_SHOWN else ""
    return ", ".join(f"{key} was {old.get(key)}, now {new.get(key)}" for key in keys[:_MOST_SHOWN]) + more


def _is_shorter(new: float | None, old: float | None) -> bool:
    """Return True if the new length is shorter. A run that has made a step refuses a shorter length."""
    return old is not None and new is not None and new < old
