"""Tests of callbacks: objects that cannot receive events are refused before training starts."""

from typing import Any

import pytest
from omegaconf import OmegaConf

from psychocounsel.engine.callbacks import Callback, Callbacks
from psychocounsel.errors import UserError


class Half:
    """Has one method of a callback, but does not derive from Callback."""

    def eval_end(self, metrics: dict[str, float], step: int, run: Any) -> None:
        """Do nothing."""


class Whole(Callback):
    """Derives from Callback and overrides nothing."""


class Given:
    """Run with one callback, of the class with this name."""

    def __init__(self, name: str) -> None:
        self.config = OmegaConf.create({"callbacks": {"mine": {"_target_": f"{__name__}.{name}"}}})


def callbacks(name: str) -> Callbacks:
    run: Any = Given(name)
    return Callbacks(run)


def test_a_callback_must_derive_from_the_base_class() -> None:
    with pytest.raises(UserError, match=r"^callbacks.mine._target_=.*\.Half: must be a class that derives from "):
        callbacks("Half")


def test_a_callback_need_not_override_any_method() -> None:
    made = callbacks("Whole")
    made.announce("step_end", 1)
    assert made.eval_end({"eval/loss": 1.0}, 1, lambda reason: [reason]) == ""
