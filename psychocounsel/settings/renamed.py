"""Keys that have another name now: the old one is refused, and the new one named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.errors import UserError

RENAMED = {"algo.temperature": "rollout.temperature", "rollout.samples": "rollout.shown_prompts"}


def renamed(key: str, value: object = None) -> str | None:
    """One line that names the new key; None for a key that was not renamed."""
    written = key if value is None else f"{key}={value}"
    return f"{written}: is now {RENAMED[key]}" if key in RENAMED else None


def refuse_renamed(plain: DictConfig, target_class: Callable[[DictConfig, str], Any]) -> None:
    """Refuse old keys of a composed configuration, but for those that a dataclass of the user's own has.

    Raises:
        UserError: naming the new key.
    """
    for key in RENAMED:
        group, _, name = key.partition(".")
        if name in (plain.get(group) or {}):
            fields = {item.name for item in dataclasses.fields(target_class(plain, group))}
            if name not in fields:
                raise UserError(renamed(key, OmegaConf.select(plain, key)))
