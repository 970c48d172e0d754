"""Choice of a run's reference."""

from collections.abc import Callable
from typing import Any

from psychocounsel.engine.engines import build_reference
from psychocounsel.engine.references.base import Reference
from psychocounsel.engine.references.cached import CachedReference
from psychocounsel.engine.references.live import AdaptersOff, FrozenCopy, RoundStart
from psychocounsel.engine.rounds.resident import resident
from psychocounsel.engine.step import Stepper
from psychocounsel.rundir.run import Run


def choose_reference(
    run: Run, stepper: Stepper, tokenizer: Any, alive: Callable[[], None], rounds: bool
) -> Reference | None:
    """Return the reference for the groups of rounds, or of a dataset; None for an algorithm without a reference.

    A dataset is compared before the first step, so its values come from a cache. Groups of rounds are compared while
    the policy changes: with the policy at the round's start, with the policy without its adapters, or with a frozen
    copy. `alive` is called often, on all ranks together; it may raise Stopped.

    Raises:
        UserError: if the frozen copy cannot be loaded.
    """
    algorithm, batch = stepper.algorithm, run.config.global_batch_size
    if algorithm.reference_kind == "none":
        return None
    if not rounds:
        return CachedReference(run, stepper, AdaptersOff(stepper, batch), alive)
    if algorithm.reference_kind == "round":
        return RoundStart(stepper, batch)
    return before_training(run, stepper, tokenizer)


def before_training(run: Run, stepper: Stepper, tokenizer: Any) -> Reference:
    """Return the policy before training, usable at any time: the policy with its adapters off, or a frozen copy.

    Raises:
        UserError: if the frozen copy cannot be loaded.
    """
    config: Any = run.config
    world, batch = stepper.world, config.global_batch_size
    if stepper.main.module.adapter is not None:
        return AdaptersOff(stepper, batch)
    model = build_reference(config, stepper.algorithm, world, tokenizer)
    return FrozenCopy(stepper, batch, model, resident([model], world, config.rollout.offload_idle))
