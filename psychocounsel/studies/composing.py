"""Configurations of a study's cells: the combinations of a stage's sweep or search, each composed and checked."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, open_dict

from psychocounsel.commands.composing import Composer
from psychocounsel.errors import UserError
from psychocounsel.rundir.sweep import key_of
from psychocounsel.search.space import read_search
from psychocounsel.search.trials import require_optuna
from psychocounsel.settings.command import Command, command_of
from psychocounsel.settings.sweep import take_sweep, with_rows
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


class CellComposer:
    """Composes the cells of a study's stages with the composer of all commands."""

    def __init__(self, composer: Composer) -> None:
        self.composer = composer
        self.loader: Any = GlobalHydra.instance().config_loader()

    def combinations(self, overrides: Sequence[str], listed: Collection[str] = ()) -> list[Combination]:
        """Return the combinations of a sweep, as `-m` makes them; a single one for overrides without a sweep.

        `listed` are keys that count as swept even with one value.

        Raises:
            UserError: for overrides that Hydra would misread, and for a sweep that is not a list of values.
            OverrideParseException: for a text that is not an override.
        """
        arguments, rows = take_sweep(overrides, self.composer.folders)
        texts = [text for text in arguments if text != "-m"]
        parsed = OverridesParser.create(self.loader).parse_overrides(texts)
        lists: dict[str, list[str]] = {}
        swept = {*map(key_of, rows[0]), *listed}
        for text, override in zip(texts, parsed, strict=True):
            key = override.get_key_element()
            lists[key] = [text]
            if override.is_sweep_override():
                lists[key] = [f"{key}={value}" for value in _values(text, override)]
                _refuse_twice(key_of(key), lists[key])
                swept.add(key_of(key))
        combined = with_rows([list(choice) for choice in product(*lists.values())], rows)
        return [
            Combination(chosen, {key_of(t): t.partition("=")[2] for t in chosen if key_of(t) in swept})
            for chosen in combined
        ]

    def trials(self, options: dict[str, Any], overrides: Sequence[str], after: Sequence[Path]) -> list[Combination]:
        """Return the trials of a search after checking both ends of every interval; `options` are those of hydra.sweeper.

        Raises:
            UserError, HydraException, OmegaConfBaseException: for keys that cannot be searched.
        """
        require_optuna()
        search = read_search(overrides, options, self.loader)
        checked = [self.checked(command_of("psychocounsel.train"), corner, after)[0] for corner in search.corners()]
        search = search.typed_as(checked[0])
        values = {key_of(text): text.partition("=")[2] for text in search.placeholders}
        typed = [*search.fixed, *search.placeholders]
        trials = list[Combination]()
        for number in range(search.trials):
            named = {"trial": f"{number:03d}"}
            trials.append(Combination(typed, {**named, **values}, named, partial(search.open_trial, trial=number)))
        return trials

    def checked(
        self,
        command: Command,
        typed: Sequence[str],
        after: Sequence[Path],
        open_trial: Callable[[DictConfig], None] | None = None,
    ) -> tuple[DictConfig, list[str]]:
        """Return the checked configuration of a command, and the overrides that it was composed of.

        Raises:
            UserError, HydraException, OmegaConfBaseException: for settings that cannot work.
        """
        for text in typed:
            if key_of(text) in _OURS:
                raise UserError(f"{text}: {_OURS[key_of(text)]}")
        overrides = command.arguments([], typed, self.composer.groups)
        composed = self.composer.composed(command, self.composer.in_hydras_form(command, overrides))
        with open_dict(composed):
            composed.after = [str(path) for path in after]
        if open_trial is not None:
            open_trial(composed)
        return self.composer.checked(command, composed), list(overrides)


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
