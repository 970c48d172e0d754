"""Configurations for tests: composed and checked as a command does it, or step by step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from psychocounsel.commands.composing import composer
from psychocounsel.settings import config as configs
from psychocounsel.settings.command import Command, command_of
from psychocounsel.settings.config import compose as compose

_MODULES = [f"psychocounsel.{name}" for name in ("train", "annotate", "audit", "evaluate", "chat")]


def command_for(config: DictConfig) -> Command:
    """Return the command that has a configuration's sections."""
    return next(command for command in map(command_of, _MODULES) if command.section in config)


def check(composed: DictConfig) -> DictConfig:
    """Return a composed configuration whose types and combinations are checked; names are not resolved."""
    return configs.check(command_for(composed), composed)


def checked(*overrides: str, name: str = "train", folders: Sequence[Path] = ()) -> DictConfig:
    """Return the configuration that `python -m psychocounsel.NAME` makes of `overrides`."""
    command = command_of(f"psychocounsel.{name}")
    with composer(folders) as made:
        return made.checked(command, made.composed(command, made.overrides(command, overrides)))


def with_values(config: DictConfig, values: dict[str, Any]) -> DictConfig:
    """Return a copy of a checked configuration with new values, checked for types and limits."""
    return configs.with_values(command_for(config), config, values)


def figures_of(config: DictConfig) -> list[str] | None:
    """Return the figures that a run of a checked configuration will have, as its command names them."""
    return command_for(config).figure_names(config)
