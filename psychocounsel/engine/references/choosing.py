"""Which reference a run has."""

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
    """The reference for the groups of rounds, or of a dataset; None for an algorithm without one.

    A dataset is compared before the first step, so its values come from a cache. Groups of rounds are compared while the
    policy changes: with the policy at the round's start, with its adapters off, or with a frozen copy.

    `alive` is called on all ranks together, often; it may raise Stopped.

    Raises:
        UserError: if the copy cannot be loaded.
    """
    config: Any = run.config
    algorithm, world, batch = stepper.algorithm, stepper.world, config.global_batch_size
    if algorithm.reference_kind == "none":
        return None
    before_training = AdaptersOff(stepper, batch)
    if not rounds:
        return CachedReference(run, stepper, before_training, alive)
    if algorithm.reference_kind == "round":
        return RoundStart(stepper, batch)
    if stepper.main.module.adapter is not None:
        return before_training
    model = build_reference(config, algorithm, world, tokenizer)
    return FrozenCopy(stepper, batch, model, resident([model], world.device, config.rollout.offload_idle))
