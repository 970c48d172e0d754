"""References that compute log-probabilities whenever they are asked."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from psychocounsel.data.group import Array, Group
from psychocounsel.engine.references.base import Reference
from psychocounsel.engine.step import Stepper
from psychocounsel.model.packed import PackedModel


class RoundStart(Reference):
    """The policy as it is now. A round asks before its first step, so this is the policy with which the round begins."""

    def __init__(self, stepper: Stepper, batch: int) -> None:
        self.stepper, self.batch = stepper, batch

    def logprobs(self, groups: Sequence[Group]) -> list[list[Array]]:
        self.stepper.main.train(False)
        return self.stepper.per_token(groups, batch=self.batch)


class AdaptersOff(Reference):
    """The policy with its adapters off: the policy before training, at any time. It has no weights of its own.

    A policy without adapters is its own reference only before its first step.
    """

    def __init__(self, stepper: Stepper, batch: int) -> None:
        self.stepper, self.batch = stepper, batch

    def logprobs(self, groups: Sequence[Group]) -> list[list[Array]]:
        self.stepper.main.train(False)
        with self.stepper.main.module.adapters_off():
            return self.stepper.per_token(groups, batch=self.batch)


class FrozenCopy(Reference):
    """The policy before training, as a frozen model beside the trained one; on the GPU within `resident` alone."""

    def __init__(self, stepper: Stepper, batch: int, model: PackedModel, resident: AbstractContextManager[Any]) -> None:
        self.stepper, self.batch, self.model, self.resident = stepper, batch, model, resident

    def logprobs(self, groups: Sequence[Group]) -> list[list[Array]]:
        with self.resident:
            return self.stepper.per_token(groups, self.model, self.batch)
