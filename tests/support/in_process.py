"""Runner of commands in the test's own process. It stops before jobs start, which is enough for tests of refused input."""

import importlib
import os
import shlex
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from psychocounsel.cluster.job import Job, Submission
from psychocounsel.cluster.job_rows import count_rows
from psychocounsel.cluster.starting import check_jobs
from psychocounsel.commands import application
from psychocounsel.settings import command_line

_COMPOSED = {"train": "train", "prepare": "train", "evaluate": "evaluate", "audit": "audit", "annotate": "annotate"}


@dataclass(frozen=True)
class Answer:
    """Exit code and output of a command. `said` has the lines that counting the rows printed, if no check failed."""

    code: int
    stdout: str
    stderr: str
    said: tuple[str, ...] = ()


def run_here(line: str, rows: bool = True) -> Answer:
    """Run `python -m psychocounsel.<line>` in the working directory. Jobs are checked, but not started.

    The rows of the jobs are checked, too, unless `rows` is false.
    """
    command, *arguments = shlex.split(line)
    out, err, said, code = StringIO(), StringIO(), list[str](), 0
    argv, sys.argv = sys.argv, [command, *arguments]
    os.environ.pop("HYDRA_FULL_ERROR", None)
    GlobalHydra.instance().clear()

    def check(jobs: list[Job], config: DictConfig) -> Submission:
        if rows:
            check_jobs(jobs, config).select(jobs)
            said.extend(count_rows(jobs, said.append))
        return Submission(0, [None] * len(jobs))

    try:
        with redirect_stdout(out), redirect_stderr(err):
            if command == "chat":
                application.main_here("psychocounsel.chat", lambda config: 0)
            if command in _COMPOSED:
                application.main(f"psychocounsel.{_COMPOSED[command]}", check)
            module = importlib.import_module(f"psychocounsel.{command}")
            command_line.run(module.main, HydraException, OmegaConfBaseException, ValueError)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = argv
        os.environ.pop("HYDRA_FULL_ERROR", None)
    return Answer(code, out.getvalue(), err.getvalue(), tuple(said))
