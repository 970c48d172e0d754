"""The page of `--help` from `conf/hydra/help/`. Hydra is slow: it copies its file index for every config group."""

from collections.abc import Sequence
from pathlib import Path
from string import Template

from omegaconf import OmegaConf

from psychocounsel.settings.help.command_groups import command_groups

_ASKS = ("--help", "-h")


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Return True if a command line asks only for the help page."""
    return any(text in _ASKS for text in arguments)


def help_page(command: str, folders: Sequence[Path]) -> str:
    """Return the help page of `command`, with its groups and their choices in all `folders`; the last one is the shipped `conf`.

    A group that only a user's folder has is listed, too.
    """
    pages = folders[-1] / "hydra" / "help"
    file = next(each for each in (pages / f"{command}.yaml", pages / "psychocounsel.yaml") if each.is_file())
    composed = OmegaConf.create({"hydra": {"help": OmegaConf.load(file)}})
    choices: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.glob("*/*.yaml"):
            choices.setdefault(path.parent.name, set()).add(path.stem)
    shipped = {path.name for path in folders[-1].iterdir()}
    names = [*command_groups(command, folders), *sorted(choices.keys() - shipped)]
    lines = [f"{group}: {', '.join(sorted(choices[group]))}" for group in names if group in choices]
    return Template(composed.hydra.help.template).safe_substitute(APP_CONFIG_GROUPS="\n  ".join(lines) + "\n")
