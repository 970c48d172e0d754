"""Prints `--help` from `conf/hydra/help/`. Hydra would print the same, but it copies its file index for every config group."""

from collections.abc import Sequence
from pathlib import Path
from string import Template

from omegaconf import OmegaConf

_ASKS = ("--help", "-h")


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether a command line wants the page and nothing else."""
    return any(text in _ASKS for text in arguments)


def help_page(command: str, folders: Sequence[Path]) -> str:
    """The page of `command`, with the groups and choices of all `folders`, of which the last one is the shipped `conf`."""
    pages = folders[-1] / "hydra" / "help"
    file = next(each for each in (pages / f"{command}.yaml", pages / "psychocounsel.yaml") if each.is_file())
    composed = OmegaConf.create({"hydra": {"help": OmegaConf.load(file)}})
    choices: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.glob("*/*.yaml"):
            choices.setdefault(path.parent.name, set()).add(path.stem)
    groups = "".join(f"{group}: {', '.join(sorted(choices[group]))}\n" for group in sorted(choices))
    return Template(composed.hydra.help.template).safe_substitute(APP_CONFIG_GROUPS=groups)
