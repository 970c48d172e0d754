"""Configuration of one cell: composed and checked in this process as its command would, without torch."""

import os
import pickle
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel.cluster.application import load_data_preset, load_preset, resolve_entries
from psychocounsel.errors import UserError
from psychocounsel.rundir.run_names import key_of
from psychocounsel.search.space import read_search
from psychocounsel.search.trials import require_optuna
from psychocounsel.settings import config as configs
from psychocounsel.settings.compositions import Compositions
from psychocounsel.settings.overrides import check_overrides
from psychocounsel.settings.sweep import take_sweep, with_rows
from psychocounsel.settings.targets import add_code_path
from psychocounsel.settings.typed.annotate_arguments import annotate_arguments
from psychocounsel.settings.typed.audit_keys import resolve_against
from psychocounsel.storage.files import shipped
from psychocounsel.studies.references import value_of

_OURS = {
    "run_dir": "cells are in the study's folder, study_dir=DIR",
    "sweep_dir": "cells are in the study's folder, study_dir=DIR",
    "out": "cells are in the study's folder, study_dir=DIR",
    "after": "a stage names its dependencies by needs: [STAGE]",
    "dry_run": "give dry_run=true to launch",
}


@dataclass(frozen=True)
class Combination:
    """One combination of a sweep, or one trial of a search.

    Attributes:
        swept: swept keys of its overrides with their values; for a search, placeholders until the trial starts.
        named: keys and values that name its folder; None: `swept`.
        open_trial: puts the recipes of a trial's values into its composed configuration.
    """

    overrides: list[str]
    swept: dict[str, str]
    named: dict[str, str] | None = None
    open_trial: Callable[[DictConfig], None] | None = None


class Composer:
    """Composes and checks configurations of all commands; each set of files is read once.

    `folders` are those of --config-dir, with the user's own configurations and code.
    """

    def __init__(self, loader: Any, folders: Sequence[Path]) -> None:
        self.loader, self.folders = loader, [*folders, shipped("conf")]
        self.groups = sorted({path.name for folder in self.folders for path in folder.iterdir() if path.is_dir()})
        self.code_path = [str(path) for folder in folders for path in (folder, folder.parent)]
        add_code_path(self.code_path)
        self.by_command: dict[str, Compositions] = {}
        self.presets: dict[tuple[str, str], bytes] = {}

    def combinations(self, overrides: Sequence[str], listed: Collection[str] = ()) -> list[Combination]:
        """Return the combinations of a sweep, as `-m` makes them; a single one for overrides without a sweep.

        `listed` are keys that count as swept even with one value.

        Raises:
            UserError: for overrides that Hydra would misread, and for a sweep that is not a list of values.
            OverrideParseException: for a text that is not an override.
        """
        arguments, rows = take_sweep(overrides, self.folders)
        texts = [text for text in arguments if text != "-m"]
        parsed = [OverridesParser.create(self.loader).parse_override(text) for text in texts]
        lists: dict[str, list[str]] = {}
        swept = {*map(key_of, rows[0]), *listed}
        for text, override in zip(texts, parsed, strict=True):
            key = override.get_key_element()
            lists[key] = [text]
            if override.is_sweep_override():
                lists[key] = [f"{key}={value}" for value in _values(text, override)]
                _refuse_twice(key_of(key), lists[key])
                swept.add(key_of(key))
        found = with_rows([list(each) for each in product(*lists.values())], rows)
        return [
            Combination(each, {key_of(t): t.partition("=")[2] for t in each if key_of(t) in swept}) for each in found
        ]

    def trials(self, options: dict[str, Any], overrides: Sequence[str], after: Sequence[Path]) -> list[Combination]:
        """Return the trials of a search after checking both ends of every interval; `options` are those of hydra.sweeper.

        Raises:
            UserError, HydraException, OmegaConfBaseException: for keys that cannot be searched.
        """
        require_optuna()
        search = read_search(overrides, options, self.loader)
        checked = [self.checked("train", corner, after)[0] for corner in search.corners()]
        search = search.typed_as(checked[0])
        values = {key_of(text): text.partition("=")[2] for text in search.placeholders}
        typed = [*search.fixed, *search.placeholders]
        found = list[Combination]()
        for number in range(search.trials):
            named = {"trial": f"{number:03d}"}
            found.append(Combination(typed, {**named, **values}, named, partial(search.open_trial, trial=number)))
        return found

    def checked(
        self,
        command: str,
        overrides: Sequence[str],
        after: Sequence[Path],
        open_trial: Callable[[DictConfig], None] | None = None,
    ) -> tuple[DictConfig, list[str]]:
        """Return the checked configuration of a command, and the overrides that it was composed of.

        Raises:
            UserError, HydraException, OmegaConfBaseException: for settings that cannot work.
        """
        typed = list(overrides)
        for text in typed:
            if key_of(text) in _OURS:
                raise UserError(f"{text}: {_OURS[key_of(text)]}")
        if command == "annotate":
            own = sorted(file.stem for folder in self.folders for file in (folder / "speeches").glob("*.yaml"))
            typed = annotate_arguments([], typed, own)
        check_overrides(typed, self.groups)
        composed = self._compositions(command).compose([configs.quote_choice(text) for text in typed])
        OmegaConf.set_struct(composed, False)
        with open_dict(composed):
            composed.code_path, composed.after = [*self.code_path, os.getcwd()], [str(path) for path in after]
            configs.resolve_mix(composed, load_data_preset)
            resolve_against(composed, load_data_preset)
        resolve_entries(composed, self._preset)
        if open_trial is not None:
            open_trial(composed)
        return configs.check(composed), typed

    def _preset(self, group: str, name: str) -> DictConfig:
        """Return a choice of a group, composed once for all cells."""
        if (group, name) not in self.presets:
            self.presets[group, name] = pickle.dumps(load_preset(group, name))
        preset: DictConfig = pickle.loads(self.presets[group, name])
        return preset

    def _compositions(self, command: str) -> Compositions:
        if command not in self.by_command:
            load: Callable[[list[str]], DictConfig] = lambda choices: self.loader.load_configuration(  # noqa: E731
                command, choices, RunMode.RUN
            )
            self.by_command[command] = Compositions(self.loader, load)
        return self.by_command[command]


def _values(text: str, override: Override) -> Iterator[str]:
    if not override.is_discrete_sweep():
        raise UserError(f"{text}: a stage sweeps over values, as KEY=A,B")
    return override.sweep_string_iterator()


def _refuse_twice(key: str, texts: Sequence[str]) -> None:
    """Refuse a value that a sweep contains twice, also in different notation (0.1, 1e-1)."""
    values = [value_of(text) for text in texts]
    for place, value in enumerate(values):
        if value in values[:place]:
            raise UserError(f"{key}: the sweep contains the value {value} twice; give each value once")


@contextmanager
def composer(folders: Sequence[Path]) -> Iterator[Composer]:
    """Yield a Composer while Hydra is set up for it.

    Raises:
        UserError: for a folder that does not exist.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--config-dir {folder}: no such folder")
    hydra, made = _set_up(tuple(folders))
    GlobalHydra.instance().clear()
    GlobalHydra.instance().initialize(hydra)
    try:
        yield made
    finally:
        GlobalHydra.instance().clear()


@cache
def _set_up(folders: tuple[Path, ...]) -> tuple[Hydra, Composer]:
    """Return Hydra with the given configuration folders, and its Composer, cached because a process reads each file once."""
    version.setbase("1.3")
    search = create_config_search_path(search_path_dir=str(shipped("conf").resolve()))
    for folder in folders:
        search.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    hydra = Hydra.create_main_hydra2(task_name="launch", config_search_path=search)
    return hydra, Composer(hydra.config_loader, folders)
