"""Hydra application of every composed command: compose, check, make jobs, submit; errors are printed in one line."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from psychocounsel.cluster.job import Job, Submission, make_job
from psychocounsel.cluster.starting import submit
from psychocounsel.commands.composing import Composer, choice
from psychocounsel.commands.help import asks_for_help, help_page
from psychocounsel.errors import (
    CONTINUE_LATER,
    DONE,
    USER_ERROR,
    GoOnLater,
    UserError,
    is_disk_full,
    print_printable,
    worst,
)
from psychocounsel.rundir.sweep import Place
from psychocounsel.search.space import SearchSweeper
from psychocounsel.settings import config as configs
from psychocounsel.settings.command import Command, command_named, command_of
from psychocounsel.settings.keys import refuse_lines_in_overrides
from psychocounsel.settings.launcher import register, remove_unused
from psychocounsel.settings.messages import EXPECTED, one_line
from psychocounsel.settings.overrides import config_dirs, parted, quote_choice
from psychocounsel.settings.sweep import take_sweep
from psychocounsel.settings.unused import refuse_unused, typed_unused
from psychocounsel.storage.files import shipped
from psychocounsel.storage.modes import let_nobody_else_write

# A file of the user's with `@package hydra` must not have Hydra make folders of its own.
_NO_FOLDERS = ("hydra.run.dir=.", "hydra.output_subdir=null")
Act = Callable[[list[Job], DictConfig], Submission]
Ended = Callable[[list[Job]], None]


def main(module: str, act: Act = submit, ended: Ended = lambda jobs: None) -> None:
    """Run the command of `module` as a Hydra application: pass all its jobs to `act` in one call, and exit with their code.

    `ended` is called with the jobs after `act` has returned. With `--config-name` the jobs are those of another command;
    only `prepare` accepts that.
    """
    _exit_with(module, lambda command: _run(command, act, ended))


def main_here(module: str, work: Callable[[DictConfig], int]) -> None:
    """Run a command without jobs: `work` gets the checked configuration in this process and returns the exit code."""
    _exit_with(module, lambda command: _run_here(command, work))


def _exit_with(module: str, run: Callable[[Command], int]) -> None:
    let_nobody_else_write()
    print_printable()
    wants_traceback = os.environ.pop("HYDRA_FULL_ERROR", None) == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and we print one line
    given, command = sys.argv[1:], command_of(module)
    try:
        sys.exit(run(command))
    except KeyboardInterrupt:
        print("stopped before anything started; to resume: the same command", file=sys.stderr)
        sys.exit(CONTINUE_LATER)
    except GoOnLater as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(CONTINUE_LATER)
    except EXPECTED as error:
        if wants_traceback:
            raise
        print(f"error: {one_line(error, given, _config_name(given) or command.name)}", file=sys.stderr)
        sys.exit(CONTINUE_LATER if is_disk_full(error) else USER_ERROR)


def _config_name(arguments: Sequence[str]) -> str | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config-name", "-cn")
    with contextlib.suppress(argparse.ArgumentError):
        return str(parser.parse_known_args(list(arguments))[0].config_name or "") or None
    return None


def _run(command: Command, act: Act, ended: Ended) -> int:
    if _helped(command):
        return DONE
    named = _config_name(sys.argv[1:])
    if named and act is submit and named != command.name:
        raise UserError(f"--config-name: names a configuration that does not belong to {command.module}")
    command = command_named(named) or command if named else command
    composer, rows = _read_arguments(command)
    exit_codes: list[int] = []

    def checked_act(jobs: list[Job], config: DictConfig) -> Submission:
        refuse_unused([job.unused for job in jobs])
        submission = act(jobs, config)
        ended(jobs)
        return submission

    def announce(job: Job) -> None:
        if act is submit and job.command.reads_rows(job.config):
            configs.build(job.config, "cluster").prepare_check(job)

    def compose_job(composed: DictConfig, overrides: list[str], index: int = 0, place: Place | None = None) -> Job:
        config = composer.checked(command, configs.without_hydra(composed))
        if config.sweep_dir and place is None:
            raise UserError(f"sweep_dir={config.sweep_dir}: is the folder of a sweep; add -m, or give run_dir instead")
        job = make_job(command, config, overrides, index, place)
        job.unused = typed_unused(command, config, job.overrides, choice)
        return job

    def run(composed: DictConfig) -> None:
        job = compose_job(composed, list(HydraConfig.get().overrides.task))
        exit_codes.append(checked_act([job], job.config).exit_code)

    register(compose_job, checked_act, rows, exit_codes, SearchSweeper, announce=announce)
    try:
        _compose(command, run)
    finally:
        remove_unused()
    return worst(exit_codes or [DONE])


def _run_here(command: Command, work: Callable[[DictConfig], int]) -> int:
    if _helped(command):
        return DONE
    if sweeps := [text for text in sys.argv[1:] if text in ("-m", "--multirun") or text.startswith("sweep=")]:
        raise UserError(f"{sweeps[0]}: {command.name} works on one configuration; leave it out")
    if (named := _config_name(sys.argv[1:])) and named != command.name:
        raise UserError(f"--config-name: names a configuration that does not belong to {command.module}")
    composer, _ = _read_arguments(command)
    checked: list[DictConfig] = []

    def check(composed: DictConfig) -> None:
        config = composer.checked(command, configs.without_hydra(composed))
        refuse_unused([typed_unused(command, config, list(HydraConfig.get().overrides.task), choice)])
        checked.append(config)

    _compose(command, check)
    return max(map(work, checked), default=DONE)  # empty if Hydra has printed the configuration instead


def _compose(command: Command, work: Callable[[DictConfig], None]) -> None:
    """Have Hydra compose the command line and call `work` with the configuration; for a sweep Hydra calls the launcher."""
    failures: list[BaseException] = []

    @hydra.main(version_base="1.3", config_path=str(shipped("conf").resolve()), config_name=command.name)
    def run(composed: DictConfig) -> None:
        try:
            work(composed)
        except (Exception, KeyboardInterrupt) as error:
            failures.append(error)  # for an exception that leaves this function, Hydra would print its own lines

    run()
    if failures:
        raise failures[0]


def _helped(command: Command) -> bool:
    """Print the help page and return True if the command line asks for it."""
    if not asks_for_help(sys.argv[1:]):
        return False
    folders = [*map(Path, config_dirs(sys.argv[1:])), shipped("conf")]
    print(help_page(_config_name(sys.argv[1:]) or command.name, folders))
    return True


def _read_arguments(command: Command) -> tuple[Composer, list[list[str]]]:
    """Rewrite the command line in Hydra's form; return the composer, and the paired rows of a named sweep.

    Raises:
        UserError: for arguments that Hydra could not read or would misread.
    """
    options, overrides = parted(sys.argv[1:])
    folders = config_dirs(options)
    if missing := next((folder for folder in folders if not os.path.isdir(folder)), None):
        raise UserError(f"--config-dir {missing}: no such folder")
    refuse_lines_in_overrides(overrides)
    composer = Composer([*map(Path, folders)])
    overrides = command.arguments(options, overrides, composer.groups)
    arguments, rows = take_sweep([*options, *overrides], composer.folders)
    options, overrides = parted(arguments)  # a named sweep adds -m
    sys.argv[1:] = [*options, *composer.in_hydras_form(command, overrides), *_NO_FOLDERS]
    return composer, [[quote_choice(override) for override in row] for row in rows]
