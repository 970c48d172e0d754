"""References that compute log-probabilities on request."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from psychocounsel.data.group import Array, Group
from psychocounsel.engine.references.base import Reference
from psychocounsel.engine.step import Stepper
from psychocounsel.model.packed import PackedModel


class RoundStart(Reference):
    """The policy as it is now. A round asks before its first step, so this is the policy at the round's start."""

    def __init__(self, stepper: Stepper, batch: int) -> None:
        self.stepper, self.batch = stepper, batch

    def logprobs(self, groups: Sequence[Group]) -> list[list[Array]]:
        self.stepper.main.train(False)
        return self.stepper.per_token(groups, batch=self.batch)


class AdaptersOff(Reference):
    """The policy with its adapters off, which equals the policy before training at any time and needs no weights of its own.

    A policy without adapters is its own reference only before its first step.
    """

    def __init__(self, stepper: Stepper, batch: int) -> None:
        self.stepper, self.batch = stepper, batch

    def logprobs(self, groups: Sequence[Group]) -> list[list[Array]]:
        self.stepper.main.train(False)
        with self.stepper.main.module.adapters_off():
            return self.stepper.per_token(groups, batch=self.batch)


class FrozenCopy(Reference):
    """A frozen copy of the policy before training, in addition to the trained one; it is on the GPU only within `resident`."""

    def __init__(self, stepper: Stepper, batch: int, model: PackedModel, resident: AbstractContextManager[Any]) -> None:
        self.stepper, self.batch, self.model, self.resident = stepper, batch, model, resident

    def logprobs(self, groups: Sequence[Group]) -> list[list[Array]]:
        with self.resident:
            return self.stepper.per_token(groups, self.model, self.batch)
