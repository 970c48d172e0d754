"""The composer of all commands: it turns overrides into a checked configuration, for the command line, studies and `api`."""

import os
import pickle
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose as hydra_compose
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel.commands.help import command_choices
from psychocounsel.errors import UserError
from psychocounsel.settings import config as configs
from psychocounsel.settings.command import Command
from psychocounsel.settings.overrides import check_overrides, quote_choice
from psychocounsel.settings.schema import suggestion
from psychocounsel.settings.targets import add_code_path
from psychocounsel.storage.files import shipped
from psychocounsel.storage.yaml_limits import Unbounded, bounded


class Composer:
    """Composes and checks configurations while Hydra is set up. `folders` are those of --config-dir."""

    def __init__(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            _refuse_unbounded(folder)
        self.folders = [*folders, shipped("conf")]
        self.code_path = [str(path) for folder in folders for path in (folder, folder.parent)] + [os.getcwd()]
        self.groups = config_groups(self.folders)
        self.sections: dict[tuple[str, str], bytes] = {}
        add_code_path(self.code_path)

    def overrides(self, command: Command, typed: Sequence[str]) -> list[str]:
        """Return typed overrides in the form that Hydra reads.

        Raises:
            UserError: for overrides that the command does not support, or that Hydra would misread.
        """
        return self.in_hydras_form(command, command.arguments([], typed, self.groups))

    def in_hydras_form(self, command: Command, overrides: Sequence[str]) -> list[str]:
        """Return overrides that the command has read already in the form that Hydra reads.

        Raises:
            UserError: for overrides that Hydra would misread.
        """
        check_overrides(overrides, sorted(self.groups), command.nullable)
        chosen = command_choices(command.name, self.folders)
        nulls = {f"{group}=null": [f"~{group}"] if chosen.get(group) else [] for group in command.nullable}
        return [quote_choice(text) for override in overrides for text in nulls.get(override, [override])]

    def composed(self, command: Command, overrides: Sequence[str]) -> DictConfig:
        """Return `conf/<command>.yaml` composed with `overrides`, as on the command line.

        Raises:
            HydraException: for an override that cannot be parsed, or that names a missing file or key.
        """
        loader = GlobalHydra.instance().config_loader()
        composed = loader.load_configuration(command.name, list(overrides), RunMode.RUN)
        return configs.without_hydra(composed)

    def checked(self, command: Command, composed: DictConfig) -> DictConfig:
        """Return a composed configuration with names resolved and everything checked.

        Raises:
            UserError: if the configuration cannot work.
        """
        OmegaConf.set_struct(composed, False)
        with open_dict(composed):
            composed.code_path = self.code_path
        configs.check_sections(command.schema(composed), composed)
        command.resolve(composed, self)
        return configs.check(command, composed)

    def names(self, group: str) -> list[str]:
        """Return the names of a group's files, including the user's."""
        return list(GlobalHydra.instance().config_loader().get_group_options(group))

    def section(self, group: str, name: str) -> DictConfig:
        """Return the settings that `<group>=<name>` would compose; composed once for all configurations.

        Raises:
            UserError: if the group has no such name.
        """
        if (group, name) not in self.sections:
            if name not in (available := self.names(group)):
                raise UserError(f"{group}.members: no {group} config named {name}; {suggestion(name, available)}")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Hydra warns that a file composed alone has no _self_ in its defaults
                self.sections[group, name] = pickle.dumps(hydra_compose(f"{group}/{name}")[group])
        section: DictConfig = pickle.loads(self.sections[group, name])
        return section

    def data(self, name: str, key: str = "data.mix") -> DictConfig:
        """Return `conf/data/<name>.yaml`, without its defaults.

        Raises:
            UserError: if no such file exists; `key` is named in the error.
        """
        node = _content("data", name)
        if node is None:
            raise UserError(f"{key}: no data config named {name}; {suggestion(name, self.names('data'))}")
        data: DictConfig = OmegaConf.create(
            {"data": node.get("data", node)}
        ).data  # so that values can refer to data.path
        return data


def _refuse_unbounded(folder: Path) -> None:
    """Refuse files of a folder of configurations that would fill the memory, because Hydra reads them without a limit."""
    for file in (file for pattern in ("*.yaml", "*/*.yaml", "*/*/*.yaml") for file in folder.glob(pattern)):
        try:
            bounded(file.read_text(encoding="utf-8", errors="replace"))
        except Unbounded as error:
            raise UserError(f"{file}: {error}") from error
        except (OSError, yaml.YAMLError):
            continue  # Hydra names the mistake if it reads the file


def choice(group: str, name: str) -> DictConfig:
    """Return the content of a choice's file, such as `experiment/NAME.yaml`; empty if there is no such file.

    Choices of the same group that its defaults name are merged first. All other defaults are left out.
    """
    content = _content(group, name) or OmegaConf.create()
    begins = [entry for entry in content.get("defaults") or [] if isinstance(entry, str) and entry != "_self_"]
    return cast(DictConfig, OmegaConf.merge(*(choice(group, entry) for entry in begins), content))


def _content(group: str, name: str) -> Any:
    result = GlobalHydra.instance().config_loader().repository.load_config(f"{group}/{name}")  # type: ignore[attr-defined]
    return result.config if result is not None else None


def config_groups(folders: Iterable[Path]) -> dict[str, list[str]]:
    """Return the names of each config group's files in `folders`."""
    groups = dict[str, list[str]]()
    for folder in folders:
        for group in (path for path in folder.iterdir() if path.is_dir()):
            names = {*groups.get(group.name, []), *(file.stem for file in group.glob("*.yaml"))}
            groups[group.name] = sorted(names)
    return groups


@contextmanager
def composer(folders: Sequence[Path]) -> Iterator[Composer]:
    """Yield a Composer while Hydra is set up for it.

    Raises:
        UserError: for a folder that does not exist.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--config-dir {folder}: no such folder")
    with configs.hydra_set_up(tuple(map(str, folders))):
        yield Composer(folders)
