"""Python interface for notebooks and scripts: compose a configuration, look at its data, train, evaluate.

    from psychocounsel import api

    config = api.compose(["algo=dpo", "data=sample", "epochs=1"])   # checked: a mistake raises UserError
    groups, held_out = api.load_groups(config)                      # the data that training would see
    result = api.train(config)                                      # in separate processes; waits for the end
    print(result.status, result.best["eval/accuracy"], result.run_dir)
    api.evaluate([f"reward.path={result.run_dir}/model"])           # for a run with algo=reward

Importing this module does not import torch; only `load_groups` imports it, when called.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from psychocounsel.cluster.job import Job, make_job
from psychocounsel.cluster.starting import submit
from psychocounsel.commands.composing import composer
from psychocounsel.errors import (
    CONTINUE_LATER,
    DONE,
    GATE_NO,
    GATE_UNDECIDED,
    USER_ERROR,
    GoOnLater,
    UserError,
    hide_words,
)
from psychocounsel.remote import hub_sources
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.results import FINISHED, gate_verdict, read_metrics, read_summary
from psychocounsel.settings import config as configs
from psychocounsel.settings.command import Command, command_named, command_of
from psychocounsel.settings.messages import one_line
from psychocounsel.storage.files import PACKAGE, expanded
from psychocounsel.storage.modes import let_nobody_else_write

if TYPE_CHECKING:
    from psychocounsel.data.group import Group

Overrides = Sequence[str]
Say = Callable[[str], None]

_STATUS = {DONE: "finished", CONTINUE_LATER: "stopped", GATE_NO: "guarded", GATE_UNDECIDED: "undecided"}


@dataclass(frozen=True)
class RunResult:
    """Result of a run.

    `status`: "finished"; "stopped" (the same `run_dir` resumes); "guarded" (a `guard` limit stopped it); "undecided" (a gate
    could not decide); "failed"; or "submitted", if the cluster does not wait for its jobs. `message` is a sentence about it.
    `exit_code` is that of `psychocounsel train`. `before`, `best` and `last` are evaluations on held-out rows: before
    training, at the best step by `checkpoint.metric`, and after the last step; empty if there was no evaluation.
    """

    run_dir: Path
    status: str
    exit_code: int
    message: str
    before: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of `metrics.jsonl`, one per step: `loss`, `lr`, `tokens_per_second`, ..., ready for a data frame."""
        return read_metrics(RunDir(self.run_dir).metrics)


def compose(overrides: Overrides = (), *, name: str = "train", config_dir: str | Path | None = None) -> DictConfig:
    """Return the checked configuration that the command line would run with these overrides.

        config = compose(["algo=simpo", "algo.beta=2.5", "model.path=/models/mine"])
        config.epochs = 2                  # changes are checked again by `train`

    Args:
        overrides: one `KEY=VALUE` each, as on the command line; write a sweep (`seed=1,2`) as a loop in Python.
        name: the command: "train", "evaluate" or "audit".
        config_dir: a folder with your own configurations and code, as `--config-dir`.

    Raises:
        UserError: for an unknown key, a wrong value, or a combination that cannot work; says what to type instead.
    """
    if isinstance(overrides, str) or not all(isinstance(override, str) for override in overrides):
        raise UserError(
            f"overrides are a list of strings: {[overrides] if isinstance(overrides, str) else overrides!r}"
        )
    folder = _config_folder(config_dir)
    try:
        with composer([folder] if folder else []) as made:
            command = _command(name)
            return made.checked(command, made.composed(command, made.overrides(command, overrides)))
    except (HydraException, OmegaConfBaseException, OSError, ValueError) as error:
        raise UserError(one_line(error, list(overrides), name)) from error


def load_groups(config: DictConfig | Overrides, say: Say = print) -> tuple[list["Group"], list["Group"]]:
    """Return the training and held-out Groups, tokenised as in a run of this configuration.

        train, held_out = load_groups(["data.path=pairs.jsonl", "data.min_gap=1.0"])
        train[0].prompt_text, [completion.text for completion in train[0].completions]

    For an algorithm with rollouts the Groups are prompts without completions. `say` receives the lines
    that a run prints about dropped and shortened rows.

    Raises:
        UserError: for unusable data (names file and row), or data that the algorithm cannot train on.
    """
    config = deepcopy(_checked(config, "train"))
    hub_sources.pin(config, _command("train").repositories(config))

    from psychocounsel.remote.hub import set_cache_directories

    hide_words(config.data.confidential)
    set_cache_directories(config.paths.cache)  # read when transformers is imported

    from psychocounsel.data.dataset import build_dataset
    from psychocounsel.model.tokenizer import load_chat_format

    algorithm = configs.build(config, "algo")
    _, chat = load_chat_format(config.model, scores=algorithm.needs.main == "reward_model")
    data = build_dataset(config, chat, algorithm.needs.data, say)
    algorithm.check(data.train, data.held_out)
    return data.train, data.held_out


def train(config: DictConfig | Overrides = (), say: Say = print) -> RunResult:
    """Run `psychocounsel train` with this configuration in separate processes, and wait for the end.

        result = train(["algo=dpo", "run_dir=runs/mine"])
        if result.status != "finished":
            print(result.message)

    The same `run_dir` resumes the run, or returns the result of a finished one. Interrupting the cell (Ctrl-C) saves
    a checkpoint and then raises KeyboardInterrupt; a second interrupt ends the run at once. `say` receives the run's output.

    Raises:
        UserError: for bad input, with what to change; nothing is left behind.
        KeyboardInterrupt: after an interrupted run has ended.
    """
    job = _job("train", config)
    code, lines = _run(job, say)
    summary = read_summary(job.run_dir)
    status = _STATUS.get(code, "failed")
    if status == "finished" and summary.get("status") != FINISHED:
        status = "submitted"
    metrics = summary.get("metrics") or {}
    evaluations = {stage: metrics.get(stage) or {} for stage in ("before", "best", "last")}
    return RunResult(job.run_dir, status, code, _message(status, job.run_dir, code, lines), **evaluations)


def evaluate(config: DictConfig | Overrides = (), say: Say = print) -> dict[str, float]:
    """Return the metrics of an evaluation; for a reward model `accuracy`, `auc`, `ece`, `brier`, each with `_low` and `_high`.

        figures = evaluate(["reward.path=runs/reward/model", "data.path=pairs.jsonl"])
        figures["accuracy"], figures["accuracy_low"], figures["accuracy_high"]
        evaluate(["evaluation=safety", "model.path=runs/mine/model", "against=runs/sft/model"])["missed"]

    The metrics of a gate that refused a model, or could not decide, are returned like those of a gate that passed.

    Runs `psychocounsel evaluate` in separate processes; a DictConfig comes from `compose(..., name="evaluate")`.

    Raises:
        UserError: for bad input, with what to change.
        RuntimeError: if the evaluation ended without figures; names the reason and the logs.
        KeyboardInterrupt: after an interrupted evaluation has ended.
    """
    job = _job("evaluate", config)
    code, lines = _run(job, say)
    if code != DONE and not (code in (GATE_NO, GATE_UNDECIDED) and gate_verdict(job.run_dir)):
        status = "stopped" if code == CONTINUE_LATER else "failed"
        raise RuntimeError(_message(status, job.run_dir, code, lines))
    summary = read_summary(job.run_dir)
    if not summary:
        raise RuntimeError(_message("submitted", job.run_dir, code, lines))
    return dict(summary.get("metrics") or {})


def _config_folder(config_dir: str | Path | None) -> Path | None:
    if config_dir is None:
        return None
    folder = expanded(config_dir).absolute()
    if not folder.is_dir():
        raise UserError(f"config_dir={config_dir}: no such folder")
    return folder


def _checked(config: DictConfig | Overrides, name: str) -> DictConfig:
    """Return the composed overrides, or the configuration checked again, because the caller may have changed its keys."""
    if not isinstance(config, DictConfig):
        return compose(config, name=name)
    if config.get((command := _command(name)).section) is None:
        raise UserError(f'this configuration belongs to another command: use compose(..., name="{name}")')
    return configs.check(command, config)


def _command(name: str) -> Command:
    if (command := command_named(name)) is None:
        raise UserError(f"{name}: is not a command; name is train, evaluate, audit or annotate")
    return command


def _job(name: str, given: DictConfig | Overrides) -> Job:
    """Return the job of a command; its run directory is chosen, but not made yet."""
    checked = _checked(given, name)
    if checked.dry_run:
        raise UserError("dry_run=true starts nothing: leave it out, or use compose() to check a configuration")
    return make_job(_command(name), checked, [] if isinstance(given, DictConfig) else list(given))


def _run(job: Job, say: Say) -> tuple[int, list[str]]:
    """Submit the job in a fresh process; return its exit code and last lines.

    A notebook's own process has threads, signal handlers, and no main module to start ranks from.
    """
    config = OmegaConf.to_yaml(job.config)
    paths = [os.environ.get("PYTHONPATH", ""), str(PACKAGE.parent)]
    process = subprocess.Popen(
        [sys.executable, "-m", "psychocounsel.api"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        start_new_session=True,  # so that Ctrl-C reaches it only through this process
    )
    assert process.stdin is not None
    with process.stdin as pipe:
        pipe.write(json.dumps({"module": job.command.module, "config": config, "overrides": job.overrides}))
    lines, interrupted = _relay(process, say)
    code = process.wait()
    if interrupted:
        raise KeyboardInterrupt(f"{job.run_dir}: the run was interrupted and ended with exit code {code}")
    if code == USER_ERROR:
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        raise UserError(errors[-1] if errors else "\n".join(lines[-3:]))
    return code, lines


def _relay(process: "subprocess.Popen[str]", say: Say) -> tuple[list[str], bool]:
    """Pass the process's output to `say` until it ends; return its last lines, and True if the user interrupted it."""
    lines, interrupted = list[str](), False
    assert process.stdout is not None
    while True:
        try:
            for text in process.stdout:
                lines = [*lines[-19:], text.rstrip("\n")]
                say(lines[-1])
            return lines, interrupted
        except KeyboardInterrupt:
            interrupted = True
            process.send_signal(signal.SIGINT)


def _message(status: str, run_dir: Path, code: int, lines: Sequence[str]) -> str:
    why = next((line for line in reversed(lines) if line.startswith("error: ")), "error: see its logs")
    return {
        "finished": f"{run_dir}: finished",
        "stopped": f"{run_dir}: stopped and saved; resume with the same configuration and run_dir={run_dir}",
        "guarded": f"{run_dir}: stopped by a `guard` limit",
        "undecided": f"{run_dir}: a gate could not decide",
        "submitted": f"{run_dir}: submitted; `psychocounsel jobs status {quote(str(run_dir))}` shows its state",
        "failed": f"{run_dir}: failed with exit code {code} ({why.removeprefix('error: ')}); logs are in {RunDir(run_dir).logs}",
    }[status]


def _submit_from_pipe() -> int:
    """Run in the fresh process: submit the job read from the pipe, as the command does after composing."""
    let_nobody_else_write()
    given = json.load(sys.stdin)
    try:
        command = command_of(given["module"])
        config = configs.check(command, OmegaConf.create(given["config"]))
        return submit([make_job(command, config, given["overrides"])], config).exit_code
    except GoOnLater as error:
        print(f"error: {error}", file=sys.stderr)
        return CONTINUE_LATER
    except (UserError, OSError) as error:
        print(f"error: {one_line(error, given['overrides'])}", file=sys.stderr)
        return USER_ERROR


if __name__ == "__main__":
    sys.exit(_submit_from_pipe())
