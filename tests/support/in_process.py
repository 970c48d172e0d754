"""Runner of commands in the test's own process. It stops before jobs start, which is enough for tests of refused input."""

import importlib
import os
import pickle
import shlex
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from psychocounsel.cluster.job import Job, Submission
from psychocounsel.cluster.job_rows import count_rows
from psychocounsel.cluster.starting import check_jobs
from psychocounsel.commands import application
from psychocounsel.settings import command_line

_parsed: dict[tuple[str, int, int, int], bytes] = {}  # parsed YAML by path, inode, size and modification time

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
    parse_files_once()
    os.environ.pop("HYDRA_FULL_ERROR", None)
    GlobalHydra.instance().clear()

    def check(jobs: list[Job], config: DictConfig) -> Submission:
        if rows:
            check_jobs(jobs, config).select(jobs)
            said.extend(counted.line() for counted in count_rows(jobs, said.append))
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


def parse_files_once() -> None:
    """Cache each parsed YAML file in this process, because parsing takes most of the time of composing."""
    Plugins.instance()
    source = SourcesRegistry.instance().resolve("file")
    if hasattr(source, "parse"):
        return

    def load_config(self: Any, config_path: str) -> Any:
        file = os.path.realpath(os.path.join(self.path, self._normalize_file_name(config_path)))
        if not os.path.exists(file):
            return self.parse(config_path)
        found = os.stat(file)
        key = f"{self.provider} {self.path} {config_path}", found.st_ino, found.st_size, found.st_mtime_ns
        if key not in _parsed:
            _parsed[key] = pickle.dumps(self.parse(config_path))
        return pickle.loads(_parsed[key])

    source.parse, source.load_config = source.load_config, load_config
