"""The Hydra application behind every composed command: compose, check, make jobs, submit; errors in one line."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from psychocounsel.cluster.job import Job, Submission, make_job
from psychocounsel.cluster.starting import submit
from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.settings import config as configs
from psychocounsel.settings.code_path import add_code_path
from psychocounsel.settings.launcher import register
from psychocounsel.settings.messages import one_line
from psychocounsel.settings.reward_sections import resolve_members
from psychocounsel.settings.schema import suggestion
from psychocounsel.settings.sweep import take_sweep
from psychocounsel.storage.files import shipped


def main(
    module: str,
    config_name: str,
    act: Callable[[list[Job], DictConfig], Submission] = submit,
) -> None:
    """Run `module` as a Hydra application: hand its jobs to `act`, all at once, and exit with their code."""
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and we say it in one line
    rows = _read_arguments()
    exit_codes: list[int] = []
    failures: list[Exception] = []
    register(partial(compose_job, module), act, rows, exit_codes)

    @hydra.main(version_base="1.3", config_path=str(shipped("conf").resolve()), config_name=config_name)
    def run(composed: DictConfig) -> None:
        try:
            job = compose_job(module, composed, list(HydraConfig.get().overrides.task))
            exit_codes.append(act([job], job.config).exit_code)
        except Exception as error:
            failures.append(error)  # Hydra would print lines of its own for what leaves this function

    try:
        run()
        if failures:
            raise failures[0]
    except (UserError, HydraException, OmegaConfBaseException, OSError, ValueError) as error:
        if wants_traceback:
            raise
        print(f"error: {one_line(error, sys.argv[1:], config_name)}", file=sys.stderr)
        sys.exit(USER_ERROR)
    sys.exit(max(exit_codes, default=0))


def _read_arguments() -> list[list[str]]:
    """Bring the command line into the form that Hydra reads; returns the paired rows of a named sweep."""
    arguments = sys.argv[1:]
    _use_config_dirs(arguments)
    try:
        folders = [*map(Path, _config_dirs(arguments)), shipped("conf")]
        arguments, rows = take_sweep(arguments, folders)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    arguments.sort(key=lambda text: text not in ("-m", "--multirun"))  # argparse wants them first
    sys.argv[1:] = [configs.quote_choice(argument) for argument in arguments]
    return [[configs.quote_choice(override) for override in row] for row in rows]


def compose_job(
    module: str, composed: DictConfig, overrides: Sequence[str], index: int = 0, sweep: Path | None = None
) -> Job:
    """Check a composed configuration and make its job.

    Raises:
        UserError: if the configuration cannot work, or its run directory belongs to another one.
    """
    with open_dict(composed):
        composed.code_path = _code_path(sys.argv[1:])
        configs.resolve_mix(composed, load_data_preset)
    resolve_members(composed, load_reward_preset)
    checked = configs.check(composed)
    return make_job(module, checked, list(overrides), index, sweep)


def load_data_preset(name: str) -> DictConfig:
    """Return `conf/data/<name>.yaml` from Hydra's search path, the user's directories included."""
    loader = GlobalHydra.instance().config_loader()
    repository = loader.repository  # type: ignore[attr-defined]
    result = repository.load_config(f"data/{name}")
    if result is None:
        available = loader.get_group_options("data")
        raise UserError(f"data.mix: no data config named {name}; {suggestion(name, available)}")
    node = result.config
    return node.data if "data" in node else node


def load_reward_preset(name: str) -> DictConfig:
    """Return the reward group as `reward=<name>` would compose it, the user's directories included."""
    available = GlobalHydra.instance().config_loader().get_group_options("reward")
    if name not in available:
        raise UserError(f"reward.members: no reward config named {name}; {suggestion(name, available)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # composed alone, a file's defaults would have to say _self_
        return hydra.compose(f"reward/{name}").reward


def _config_dirs(arguments: Sequence[str]) -> list[str]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", action="append", default=[])
    known, _ = parser.parse_known_args(list(arguments))
    return [os.path.abspath(os.path.expanduser(folder)) for folder in known.config_dir]


def _code_path(arguments: Sequence[str]) -> list[str]:
    """Where a user's own algorithm may live: the folder of --config-dir, the one above it, and the current one."""
    folders = [path for folder in _config_dirs(arguments) for path in (folder, os.path.dirname(folder))]
    return [*folders, os.getcwd()] if folders else [os.getcwd()]


def _use_config_dirs(arguments: Sequence[str]) -> None:
    for folder in _config_dirs(arguments):
        if not os.path.isdir(folder):
            print(f"error: --config-dir {folder}: no such folder", file=sys.stderr)
            sys.exit(USER_ERROR)
    add_code_path(_code_path(arguments))
