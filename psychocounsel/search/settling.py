"""Settling of values that a job gets when it starts: from a finished run, or from a search.

`config.settled` holds a recipe for each key that gets its value at the start. Until then, the key holds a placeholder.

    settled: {algo.beta: {run: STUDY/grid/best, key: algo.beta}}          the value of this run
    settled: {algo.beta: {trial: 7, seed: 1, low: 0.01, high: 1.0, log: true}}    a value of a search (space.py)

The recipe is kept together with the `value` found, so that a resumed run keeps its value.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel.errors import GoOnLater, UserError, is_disk_full
from psychocounsel.rundir.results import is_finished
from psychocounsel.rundir.run import Run
from psychocounsel.rundir.run_config import read_config, write_config
from psychocounsel.settings.command import Command
from psychocounsel.settings.config import with_values

_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 600.0
_MISSING: Any = object()


def settled_work(run: Run, command: Command, work: Callable[[Run], int]) -> int:
    """Settle the values of `run.config`, then return the exit code of `work`; report the result to the search of a trial.

    Rank 0 settles the values and writes `config.yaml` once; the other ranks wait for it.

    Raises:
        UserError: if the run that a value comes from has not finished, or the value is not valid.
        GoOnLater: if rank 0 does not settle the values.
    """
    was_open = is_open(run.config)
    if was_open:
        settle(run, command) if run.is_main else await_rank_0(run, is_open, "the settled values")
    if not (run.is_main and trials_of(run.config)):
        return work(run)
    from psychocounsel.search.trials import journal_of

    if not was_open:
        journal_of(run.dir, run.config).begin_again(run.dir)
    try:
        code = work(run)
    except Exception as error:
        if not (isinstance(error, GoOnLater) or is_disk_full(error)):
            journal_of(run.dir, run.config).fail(run.dir)
        raise
    journal_of(run.dir, run.config).tell(run.dir, code)
    return code


def is_open(config: DictConfig) -> bool:
    """Return True if a value is not settled yet."""
    return any("value" not in recipe for recipe in _recipes(config).values())


def trials_of(config: DictConfig) -> dict[str, dict[str, Any]]:
    """Return the recipes of the keys whose values a search proposes."""
    return {key: recipe for key, recipe in _recipes(config).items() if "trial" in recipe}


def settle(run: Run, command: Command) -> None:
    """Find the values that are not settled yet, put them into `run.config`, and write `config.yaml`.

    Raises:
        UserError: if the run that a value comes from has not finished, or the value is not valid.
    """
    recipes = _recipes(run.config)
    values = {key: _of_run(key, recipe) for key, recipe in recipes.items() if "run" in recipe and "value" not in recipe}
    if trials_of(run.config):
        from psychocounsel.search.trials import journal_of

        values |= journal_of(run.dir, run.config).ask(run.dir)
    config = with_values(command, run.config, values)
    with open_dict(config):
        for key in values:
            config.settled[key]["value"] = OmegaConf.select(config, key)
    write_config(run.dir, config)
    run.config = config
    run.say("settled: " + " ".join(f"{key}={config.settled[key].value}" for key in sorted(values)))


def keep_settled(config: DictConfig, existing: DictConfig) -> None:
    """Copy the settled values of the existing run into `config`."""
    with open_dict(config):
        for key, recipe in _recipes(existing).items():
            if key in config.settled:
                config.settled[key] = recipe
                if "value" in recipe:
                    OmegaConf.update(config, key, recipe["value"], merge=False)


def _recipes(config: DictConfig) -> dict[str, dict[str, Any]]:
    recipes = config.get("settled")
    content: Any = OmegaConf.to_container(recipes) if recipes else {}
    return dict(content)


def _of_run(key: str, recipe: dict[str, Any]) -> Any:
    """Return the value that a finished run has for the recipe's `key`."""
    folder = Path(recipe["run"])
    if not is_finished(folder):
        raise UserError(f"{key}: its value comes from {folder}, which has not finished; run it first")
    value = OmegaConf.select(read_config(folder), recipe["key"], default=_MISSING)
    if value is _MISSING:
        raise UserError(f"{key}: its value comes from {folder}, which has no {recipe['key']}")
    return value


def await_rank_0(run: Run, is_open: Callable[[DictConfig], Any], what: str) -> None:
    """Wait until rank 0 has written `what` to the run's configuration. If rank 0 fails, the launcher ends this rank.

    Raises:
        GoOnLater: if the configuration `is_open` after ten minutes.
    """
    end = time.monotonic() + _PATIENCE_SECONDS
    while is_open(config := read_config(run.dir)):
        if time.monotonic() >= end:
            raise GoOnLater(f"{run.dir}: rank 0 has not written {what} in {_PATIENCE_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)
    run.config = config
