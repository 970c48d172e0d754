"""Keys that there are not, or no more: what to type instead."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.settings.schema import suggestion

# Old key: new key. The old one is refused, unless a dataclass of the user's own has it.
RENAMED = {"algo.temperature": "rollout.temperature", "rollout.samples": "rollout.shown_prompts"}


def renamed(key: str, value: object = None) -> str | None:
    """One line that names the new key; None for a key that was not renamed."""
    written = key if value is None else f"{key}={value}"
    return f"{written}: is now {RENAMED[key]}" if key in RENAMED else None


def unknown_key(key: str, valid: Sequence[str]) -> str:
    """One line that names the nearest of the `valid` keys."""
    return f"unknown key {key}: {suggestion(key, list(valid))}"


def refuse_renamed(plain: DictConfig, target_class: Callable[[DictConfig, str], Any]) -> None:
    """Refuse old keys of a composed configuration; `target_class` gives the dataclass of a group.

    Raises:
        UserError: naming the new key.
    """
    for key in RENAMED:
        group, _, name = key.partition(".")
        if name in (plain.get(group) or {}):
            refuse_unknown(group, {name: OmegaConf.select(plain, key)}, target_class(plain, group))


def refuse_unknown(group: str, values: dict[str, Any], target: Any) -> None:
    """Refuse values that the dataclass `target` of a group has no field for, as an older run directory may have.

    Raises:
        UserError: naming the key and what to type instead.
    """
    fields = [f"{group}.{item.name}" for item in dataclasses.fields(target)]
    for name, value in values.items():
        key = f"{group}.{name}"
        if key not in fields:
            raise UserError(renamed(key, value) or unknown_key(key, fields))
