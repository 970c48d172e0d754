"""Search space of `hydra/sweeper=optuna`, and the Hydra plugin that makes one job for each trial of a search."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, QuotedString, RangeSweep
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel.errors import UserError
from psychocounsel.rundir.identity import defines
from psychocounsel.rundir.sweep import Naming, Place, SweepFolder, key_of
from psychocounsel.search.trials import journal_of, mark_best, require_optuna
from psychocounsel.settings.overrides import parsed
from psychocounsel.settings.sweep import written

# Overrides of a search: `algo.beta='tag(log,interval(0.01,1))'` or `algo.loss_type=choice(sigmoid,ipo)`.

SWEEPER = "hydra/sweeper=optuna"
PRUNERS = ("median", "hyperband", "none")
REPORT = "psychocounsel.search.trials.TrialReport"
_OPTIONS = ("trials", "seed", "pruner")


@dataclass(frozen=True)
class Search:
    """Search space and options of a search.

    `space`: the recipe of each key: {low, high, log, step} or {choices}, as plain values. `fixed`: the overrides that
    are not searched. `typed`: the overrides of the space as they were typed.
    """

    fixed: list[str]
    typed: list[str]
    space: dict[str, dict[str, Any]]
    trials: int
    seed: int
    pruner: str

    @property
    def placeholders(self) -> list[str]:
        """Overrides with the first value of each key. A trial is composed with them until its values are known."""
        return [self._override(key, _ends(recipe)[0]) for key, recipe in self.space.items()]

    def corners(self) -> list[list[str]]:
        """Return overrides for both ends of each interval and every choice, to be checked before any job starts."""
        first = dict(zip(self.space, self.placeholders, strict=True))
        others = [
            [*({**first, key: self._override(key, value)}).values()]
            for key, recipe in self.space.items()
            for value in _ends(recipe)[1:]
        ]
        return [[*self.fixed, *corner] for corner in ([*first.values()], *others)]

    def _override(self, key: str, value: Any) -> str:
        """Return KEY=VALUE, or +KEY=VALUE if it was typed like that."""
        signs = (text[: len(text) - len(text.lstrip("+"))] for text in self.typed if key_of(text) == key_of(key))
        return f"{next(signs, '')}{key}={written(value)}"

    def naming(self, trial: int) -> Naming:
        """Return the name of a trial's folder, such as `trial-007`."""
        text = (f"trial={trial:03d}",)
        return Naming(text, tuple(self.fixed), text)

    def open_trial(self, composed: DictConfig, trial: int) -> None:
        """Prepare a trial's configuration: its job gets the values when it starts, and reports its evaluations."""
        with open_dict(composed):
            about = {"trial": trial, "seed": self.seed}
            composed.settled = {key: {**about, **recipe} for key, recipe in self.space.items()}
            composed.callbacks = {
                **(composed.get("callbacks") or {}),
                "search": {"_target_": REPORT, "pruner": self.pruner},
            }

    def typed_as(self, checked: DictConfig) -> "Search":
        """Return the search with interval ends converted to the types of a checked configuration: integers stay integers.

        Raises:
            UserError: for an interval of a key that is not a number.
        """
        space = {key: _of_type(key, recipe, OmegaConf.select(checked, key)) for key, recipe in self.space.items()}
        return Search(self.fixed, self.typed, space, self.trials, self.seed, self.pruner)


def read_search(overrides: Sequence[str], options: Mapping[str, Any], loader: Any) -> Search:
    """Return the search of a command line.

    `options` are those of `hydra.sweeper`, which `overrides` does not contain. Hydra's `loader` knows the config
    groups.

    Raises:
        UserError: for an override that cannot be searched, an unknown or wrong option, or nothing to search.
    """
    parser = OverridesParser.create(loader)
    fixed, typed, space = list[str](), list[str](), {}
    for text in overrides:
        (override,) = parser.parse_overrides([text])
        if not override.is_sweep_override():
            fixed.append(text)
            continue
        key = override.key_or_group
        if loader.repository.group_exists(key):
            raise UserError(
                f"{text}: selects config files, which a search cannot vary; choose one of them, and run one search for each"
            )
        if not defines(key):
            raise UserError(f"{text}: this setting does not affect training, so a search cannot vary it")
        typed.append(text)
        space[key] = _recipe(text, override)
    if not space:
        raise UserError(f"{SWEEPER}: there is nothing to search; give KEY=interval(LOW,HIGH) or KEY=choice(A,B)")
    return Search(fixed, typed, space, *_checked(options))


def search_options(overrides: Sequence[str]) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the search options in a study's line and the other overrides; the options are None without a search.

    The options are those of `hydra.sweeper`, such as {"trials": 8}, with defaults. `read_search` checks them.
    """
    options: dict[str, Any] = {}
    rest = []
    for text in overrides:
        key = text.partition("=")[0]
        if key.startswith("hydra.sweeper."):
            options[key.removeprefix("hydra.sweeper.")] = parsed(text).value()
        elif text != SWEEPER:
            rest.append(text)
    if SWEEPER not in overrides:
        return None, list(overrides)
    return {"trials": 20, "seed": 0, "pruner": "median", **options}, rest


def _checked(options: Mapping[str, Any]) -> tuple[int, int, str]:
    if unknown := sorted(set(options) - set(_OPTIONS)):
        raise UserError(f"hydra.sweeper.{unknown[0]}: this option does not exist; a search has {', '.join(_OPTIONS)}")
    trials, seed, pruner = (options[name] for name in _OPTIONS)
    if not _is_whole(trials) or trials < 1:
        raise UserError(f"hydra.sweeper.trials={trials}: must be a whole number of at least 1")
    if not _is_whole(seed) or seed < 0:
        raise UserError(f"hydra.sweeper.seed={seed}: must be a whole number of at least 0")
    if pruner not in PRUNERS:
        raise UserError(f"hydra.sweeper.pruner={pruner}: must be one of {', '.join(PRUNERS)}")
    return trials, seed, pruner


def _recipe(text: str, override: Override) -> dict[str, Any]:
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        assert sweep.start is not None and sweep.end is not None
        return _interval(text, sweep.start, sweep.end, "log" in sweep.tags, None)
    if isinstance(sweep, RangeSweep):
        values = list(sweep.range())
        if not values:
            raise UserError(f"{text}: the range is empty")
        return _interval(text, values[0], values[-1], "log" in sweep.tags, sweep.step)
    if isinstance(sweep, ChoiceSweep):
        choices = [choice.text if isinstance(choice, QuotedString) else choice for choice in sweep.list]
        if not all(choice is None or isinstance(choice, str | int | float) for choice in choices):
            raise UserError(f"{text}: a search chooses between single values; run one search for each list or mapping")
        return {"choices": choices}
    raise UserError(f"{text}: a search supports interval(LOW,HIGH), range(LOW,HIGH,STEP) and choice(A,B)")


def _interval(text: str, low: float, high: float, log: bool, step: float | None) -> dict[str, Any]:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"{text}: an interval needs finite ends, the lower one first")
    if log and low <= 0:
        raise UserError(f"{text}: an interval on a logarithmic scale must begin above 0")
    if log and step is not None:
        raise UserError(f"{text}: a range has steps, which a logarithmic scale does not support; use interval")
    return {"low": low, "high": high, "log": log, "step": step}


def _ends(recipe: Mapping[str, Any]) -> list[Any]:
    return list(recipe["choices"]) if "choices" in recipe else [recipe["low"], recipe["high"]]


def _of_type(key: str, recipe: dict[str, Any], value: Any) -> dict[str, Any]:
    if "choices" in recipe:
        return recipe
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{key}: is not a number, so it cannot have an interval; give {key}=choice(A,B)")
    kind = int if isinstance(value, int) else float
    return {
        name: kind(entry) if name in ("low", "high", "step") and entry is not None else entry
        for name, entry in recipe.items()
    }


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# The Hydra plugin.


class SearchSweeper(Sweeper):
    """Sweeper whose jobs get their values when they start, so no process has to wait; the same command resumes the search."""

    __module__ = "hydra_plugins.psychocounsel"

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader: Any = hydra_context.config_loader
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        require_optuna()
        if self.launcher.rows != [[]]:
            raise UserError(f"sweep=NAME: lists values, but {SWEEPER} proposes them: use one of the two")
        search = read_search(arguments, self.options, self.loader)
        folder = SweepFolder(self.launcher.sweep)
        corners = self.checked(search, folder)
        if not corners[0].command.trains:
            raise UserError(f"{SWEEPER}: only training can be searched; use psychocounsel train")
        jobs = self.trials(search.typed_as(corners[0].config), folder)
        for job in jobs:
            job.unused = idle(corners)
            job.overrides = [*search.fixed, *search.typed]
        results = self.launcher.start(jobs)
        if not jobs[0].config.dry_run:
            for line in mark_best(journal_of(jobs[0].run_dir, jobs[0].config), folder.path, search.fixed):
                print(line, flush=True)
        return results

    def checked(self, search: Search, folder: SweepFolder) -> list[Any]:
        """Return jobs for both ends of all intervals and every choice. They are checked, but not started."""
        place = Place(folder, Naming(("trial",)))
        made: list[Any] = self.launcher.make_all([(0, corner, place) for corner in search.corners()])
        return made

    def trials(self, search: Search, folder: SweepFolder) -> list[Any]:
        made: list[Any] = self.launcher.make_all(
            [
                (
                    number,
                    [*search.fixed, *search.placeholders],
                    Place(folder, search.naming(number)),
                    partial(search.open_trial, trial=number),
                )
                for number in range(search.trials)
            ]
        )
        return made


def idle(corners: Sequence[Any]) -> dict[str, str]:
    """Return the typed overrides that have no effect with any of the values, each with the reason."""
    return {text: why for text, why in corners[0].unused.items() if all(text in job.unused for job in corners)}
