"""Typed options that have no effect in a run, because another choice disables them. They are refused, because they would mislead.

A command lists them in `idle`, and the class of a group in `unused`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.settings.command import Command, idle_keys
from psychocounsel.settings.overrides import parsed
from psychocounsel.settings.targets import build


def typed_unused(
    command: Command, config: DictConfig, overrides: Sequence[str], load_choice: Callable[[str, str], DictConfig]
) -> dict[str, str]:
    """Return each typed option that has no effect under the checked `config`, as typed, with the reason.

    Typed options are those on the command line and in the chosen experiment's file, which `load_choice` reads.
    """
    cluster = build(config, "cluster").unused() if config.get("cluster") is not None else {}
    idle = dict(idle_keys("cluster", cluster)) | dict(command.idle(config))
    unused = {}
    for key, text in _typed(overrides, load_choice):
        if reason := next((idle[place] for place in (key, *_above(key)) if place in idle), None):
            unused[text] = reason
    return unused


def refuse_unused(of_each_run: Sequence[dict[str, str]]) -> None:
    """Refuse options that have no effect in any run of a command.

    Raises:
        UserError: naming the option and the reason.
    """
    for text, reason in of_each_run[0].items():
        if all(text in unused for unused in of_each_run):
            raise UserError(f"{text}: has no effect, because {reason}; leave it out")


def _above(key: str) -> Iterator[str]:
    """Yield the sections that contain a key, the innermost first."""
    while "." in key:
        key = key.rpartition(".")[0]
        yield key


def _typed(overrides: Sequence[str], load_choice: Callable[[str, str], DictConfig]) -> Iterator[tuple[str, str]]:
    """Yield each key that was given a value, with its text as written."""
    for text in overrides:
        override = parsed(text)
        key, value = override.key_or_group.replace("/", "."), override.value()
        if override.is_delete():
            continue
        if key == "experiment" and value:
            content = load_choice("experiment", str(value))
            leaves = _leaves(OmegaConf.to_container(content))
            yield from ((leaf, f"{leaf} (in {text.lstrip('+')})") for leaf in leaves if leaf != "defaults")
        elif isinstance(value, dict):
            yield from ((f"{key}.{name}", text.lstrip("+")) for name in value)
        else:
            yield key, text.lstrip("+")


def _leaves(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of all values in nested mappings."""
    for name, inner in node.items():
        yield from _leaves(inner, f"{prefix}{name}.") if isinstance(inner, dict) else [f"{prefix}{name}"]
