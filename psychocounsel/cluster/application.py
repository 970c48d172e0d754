"""Hydra application of every composed command: compose, check, make jobs, submit; errors are printed in one line."""

import argparse
import contextlib
import gc
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from psychocounsel.cluster.job import Job, Submission, make_job
from psychocounsel.cluster.starting import submit
from psychocounsel.errors import CONTINUE_LATER, DONE, USER_ERROR, GoOnLater, UserError, is_disk_full
from psychocounsel.rundir.sweep_folder import Place
from psychocounsel.search.space import SearchSweeper
from psychocounsel.settings import config as configs
from psychocounsel.settings.compositions import compose_alone
from psychocounsel.settings.help.help_page import asks_for_help, help_page
from psychocounsel.settings.keys import refuse_lines_in_overrides
from psychocounsel.settings.launcher import register, remove_unused, take_mode_from
from psychocounsel.settings.messages import one_line
from psychocounsel.settings.overrides import check_overrides, parted
from psychocounsel.settings.reward_sections import resolve_rewards
from psychocounsel.settings.schema import suggestion
from psychocounsel.settings.sections.annotation_groups import Preset, resolve_models
from psychocounsel.settings.sections.contestant_groups import resolve_contestants, resolve_reward_judges
from psychocounsel.settings.sweep import take_sweep
from psychocounsel.settings.targets import add_code_path
from psychocounsel.settings.typed.annotate_arguments import annotate_arguments, evaluate_arguments
from psychocounsel.settings.typed.audit_keys import resolve_against
from psychocounsel.settings.typed.chat_keys import MAY_BE_NULL, chat_arguments, resolve_chat_reward
from psychocounsel.settings.typed.early_stop import imported
from psychocounsel.settings.typed.unused import refuse_unused, typed_unused
from psychocounsel.storage.files import shipped
from psychocounsel.storage.modes import let_nobody_else_write

Act = Callable[[list[Job], DictConfig], Submission]
Ended = Callable[[list[Job]], None]
_EXPECTED = (UserError, HydraException, OmegaConfBaseException, OSError, ValueError, yaml.YAMLError, RecursionError)


def main(
    module: str,
    config_name: str,
    act: Act = submit,
    ended: Ended = lambda jobs: None,
) -> None:
    """Run `module` as a Hydra application: pass all its jobs to `act` in one call, and exit with their code.

    `ended` is called with the jobs after `act` has returned.
    """
    _exit_with(config_name, lambda: _run(module, config_name, act, ended))


def main_here(config_name: str, work: Callable[[DictConfig], int]) -> None:
    """Run a Hydra application without jobs: `work` gets the checked configuration in this process and returns the exit code."""
    _exit_with(config_name, lambda: _run_here(config_name, work))


def _exit_with(config_name: str, run: Callable[[], int]) -> None:
    let_nobody_else_write()
    imported()
    wants_traceback = os.environ.pop("HYDRA_FULL_ERROR", None) == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and we print one line
    given = sys.argv[1:]
    try:
        code = run()
        gc.freeze()  # otherwise the exit of a sweep of 200 runs spends half a second on searching garbage
        sys.exit(code)
    except KeyboardInterrupt:
        print("stopped before anything started; to resume: the same command", file=sys.stderr)
        sys.exit(CONTINUE_LATER)
    except GoOnLater as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(CONTINUE_LATER)
    except _EXPECTED as error:
        if wants_traceback:
            raise
        print(f"error: {one_line(error, given, _config_name(given) or config_name)}", file=sys.stderr)
        sys.exit(CONTINUE_LATER if is_disk_full(error) else USER_ERROR)


def _config_name(arguments: Sequence[str]) -> str | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config-name", "-cn")
    with contextlib.suppress(argparse.ArgumentError):
        return str(parser.parse_known_args(list(arguments))[0].config_name or "") or None
    return None


def _run(module: str, config_name: str, act: Act, ended: Ended) -> int:
    if _helped(config_name):
        return DONE
    rows = _read_arguments(config_name)
    take_mode_from(sys.argv[1:])
    exit_codes: list[int] = []
    failures: list[BaseException] = []

    def checked_act(jobs: list[Job], config: DictConfig) -> Submission:
        if act is submit and configs.command_of(config) != config_name:
            raise UserError(f"--config-name: names a configuration that does not belong to {module}")
        refuse_unused([job.unused for job in jobs])
        submission = act(jobs, config)
        ended(jobs)
        return submission

    def announce(job: Job) -> None:
        if act is submit and not job.makes_tables:
            configs.build(job.config, "cluster").prepare_check(job)

    register(partial(compose_job, module), checked_act, rows, exit_codes, SearchSweeper, announce=announce)

    @hydra.main(version_base="1.3", config_path=str(shipped("conf").resolve()), config_name=config_name)
    def run(composed: DictConfig) -> None:
        try:
            job = compose_job(module, composed, list(HydraConfig.get().overrides.task))
            exit_codes.append(checked_act([job], job.config).exit_code)
        except (Exception, KeyboardInterrupt) as error:
            failures.append(error)  # for an exception that leaves this function, Hydra would print its own lines

    try:
        run()
    finally:
        remove_unused()
    if failures:
        raise failures[0]
    return max(exit_codes, default=DONE)


def _run_here(config_name: str, work: Callable[[DictConfig], int]) -> int:
    if _helped(config_name):
        return DONE
    if sweeps := [text for text in sys.argv[1:] if text in ("-m", "--multirun") or text.startswith("sweep=")]:
        raise UserError(f"{sweeps[0]}: {config_name} works on one configuration; leave it out")
    _read_arguments(config_name)
    checked: list[DictConfig] = []
    failures: list[BaseException] = []

    @hydra.main(version_base="1.3", config_path=str(shipped("conf").resolve()), config_name=config_name)
    def compose(composed: DictConfig) -> None:
        try:
            config = _checked(composed)
            if configs.command_of(config) != config_name:
                raise UserError(
                    f"--config-name: names a configuration that does not belong to psychocounsel.{config_name}"
                )
            refuse_unused([typed_unused(config, list(HydraConfig.get().overrides.task), load_choice)])
            checked.append(config)
        except (Exception, KeyboardInterrupt) as error:
            failures.append(error)

    compose()
    if failures:
        raise failures[0]
    return max(map(work, checked), default=DONE)  # empty if Hydra has printed the configuration instead


def _helped(config_name: str) -> bool:
    """Print the help page and return True if the command line asks for it."""
    if not asks_for_help(sys.argv[1:]):
        return False
    folders = [*map(Path, _config_dirs(sys.argv[1:])), shipped("conf")]
    print(help_page(_config_name(sys.argv[1:]) or config_name, folders))
    return True


def _read_arguments(config_name: str) -> list[list[str]]:
    """Rewrite the command line in Hydra's form; return the paired rows of a named sweep.

    Raises:
        UserError: for arguments that Hydra could not read or would misread.
    """
    options, overrides = parted(sys.argv[1:])
    _use_config_dirs(options)
    refuse_lines_in_overrides(overrides)
    folders = [*map(Path, _config_dirs(options)), shipped("conf")]
    if (_config_name(options) or config_name) == "annotate":
        own = sorted(file.stem for folder in folders for file in (folder / "speeches").glob("*.yaml"))
        overrides = annotate_arguments(options, overrides, own)
    if (_config_name(options) or config_name) == "evaluate":
        overrides = evaluate_arguments(options, overrides)
    arguments, rows = take_sweep([*options, *overrides], folders)
    options, overrides = parted(arguments)  # a named sweep adds -m
    groups = {path.name for folder in folders for path in folder.iterdir() if path.is_dir()}
    is_chat = config_name == "chat"
    check_overrides(overrides, sorted(groups), MAY_BE_NULL if is_chat else ())
    overrides = chat_arguments(overrides) if is_chat else overrides
    sys.argv[1:] = [*options, *map(configs.quote_choice, overrides)]
    return [[configs.quote_choice(override) for override in row] for row in rows]


def compose_job(
    module: str, composed: DictConfig, overrides: Sequence[str], index: int = 0, place: Place | None = None
) -> Job:
    """Check a composed configuration and make its job.

    Raises:
        UserError: if the configuration cannot work, or its run directory belongs to another run.
    """
    checked = _checked(composed)
    if checked.sweep_dir and place is None:
        raise UserError(f"sweep_dir={checked.sweep_dir}: is the folder of a sweep; add -m, or give run_dir instead")
    job = make_job(module, checked, list(overrides), index, place)
    job.unused = typed_unused(checked, job.overrides, load_choice)
    return job


def _checked(composed: DictConfig) -> DictConfig:
    with open_dict(composed):
        composed.code_path = _code_path(sys.argv[1:])
        configs.resolve_mix(composed, load_data_preset)
        resolve_against(composed, load_data_preset)
    resolve_entries(composed)
    return configs.check(composed)


def load_choice(group: str, name: str) -> DictConfig:
    """Return the content of a choice's file, such as `experiment/NAME.yaml`, without its defaults; empty if missing."""
    result = GlobalHydra.instance().config_loader().repository.load_config(f"{group}/{name}")  # type: ignore[attr-defined]
    return result.config if result is not None else OmegaConf.create()


def load_data_preset(name: str, key: str = "data.mix") -> DictConfig:
    """Return `conf/data/<name>.yaml` from Hydra's search path, including the user's directories.

    Raises:
        UserError: if no such file exists; `key` is named in the error.
    """
    loader = GlobalHydra.instance().config_loader()
    repository = loader.repository  # type: ignore[attr-defined]
    result = repository.load_config(f"data/{name}")
    if result is None:
        available = loader.get_group_options("data")
        raise UserError(f"{key}: no data config named {name}; {suggestion(name, available)}")
    node = result.config
    data: DictConfig = OmegaConf.create({"data": node.get("data", node)}).data  # so that values can refer to data.path
    return data


def load_preset(group: str, name: str) -> DictConfig:
    """Return the settings that `<group>=<name>` would compose, including the user's directories.

    Raises:
        UserError: if the group has no such name.
    """
    loader = GlobalHydra.instance().config_loader()
    available = loader.get_group_options(group)
    if name not in available:
        raise UserError(f"{group}.members: no {group} config named {name}; {suggestion(name, available)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Hydra warns that a file composed alone has no _self_ in its defaults
        section: DictConfig = compose_alone(loader, f"{group}/{name}")[group]
        return section


def resolve_entries(composed: DictConfig, preset: Preset = load_preset) -> None:
    """Resolve names of rewards, contestants, models and judges to settings, because the worker does not compose.

    Raises:
        UserError: if an entry has the wrong form or an unknown name, or two contestants have the same name.
    """
    resolve_rewards(composed, preset)
    resolve_contestants(composed, preset)
    resolve_chat_reward(composed, preset)
    resolve_models(composed, preset)
    resolve_reward_judges(composed, preset)


def _config_dirs(arguments: Sequence[str]) -> list[str]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", action="append", default=[])
    known, _ = parser.parse_known_args(list(arguments))
    return [os.path.abspath(os.path.expanduser(folder)) for folder in known.config_dir]


def _code_path(arguments: Sequence[str]) -> list[str]:
    """Return the folders that may hold the user's own code: each --config-dir, its parent, and the current folder."""
    folders = [path for folder in _config_dirs(arguments) for path in (folder, os.path.dirname(folder))]
    return [*folders, os.getcwd()] if folders else [os.getcwd()]


def _use_config_dirs(arguments: Sequence[str]) -> None:
    for folder in _config_dirs(arguments):
        if not os.path.isdir(folder):
            raise UserError(f"--config-dir {folder}: no such folder")
    add_code_path(_code_path(arguments))
