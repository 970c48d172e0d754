"""A run as its worker sees it: directory, configuration, rank, log and state."""

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from omegaconf import DictConfig

from psychocounsel import __version__
from psychocounsel.errors import GoOnLater, UserError, print_failure
from psychocounsel.rundir.attempts import keep_engine_log
from psychocounsel.rundir.owner import ownership
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.summary import write_state
from psychocounsel.storage.files import DamagedFile, read_mapping, write_json

_VERSIONS = ("torch", "transformers", "deepspeed", "datasets", "numpy")


@dataclass
class Run:
    dir: Path
    config: DictConfig
    rank: int
    processes: int
    attempt: int
    log: IO[str]

    @classmethod
    @contextmanager
    def open(cls, run_dir: Path, config: DictConfig) -> Iterator["Run"]:
        """Take ownership of the directory (rank 0) and log to `logs/<attempt>/rank-<rank>.log`, within this context.

        Raises:
            UserError: if a live process owns the directory.
            GoOnLater: in a job, if that process does not end.
        """
        rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        attempt = int(os.environ.get("PSYCHOCOUNSEL_ATTEMPT", 1))
        logs = RunDir(run_dir).attempt(attempt)
        logs.path.mkdir(parents=True, exist_ok=True)
        keep_engine_log(logs.engine_log(rank))
        with ownership(run_dir) if rank == 0 else nullcontext(), open(logs.log(rank), "a", 1) as log:
            try:
                yield cls(run_dir, config, rank, processes, attempt, log)
            except (UserError, GoOnLater) as error:
                print(f"error: {error}", file=log)
                raise
            except BaseException as error:
                print_failure(error, log)
                raise

    @property
    def files(self) -> RunDir:
        """The names of the files in `dir`."""
        return RunDir(self.dir)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def say(self, text: str) -> None:
        """Print `text` for the user (rank 0) and in the log."""
        print(text, file=self.log)
        if self.is_main:
            print(text, file=sys.stderr, flush=True)

    def give_up(self, text: str, step: int) -> None:
        """Print why the run stops after `step` steps, even if the disk is full."""
        if self.is_main:
            print(text, file=sys.stderr, flush=True)
        with suppress(OSError):
            os.write(
                self.log.fileno(), f"{text}\n".encode()
            )  # bypasses the buffer, which would otherwise be flushed again
        with suppress(OSError):
            self.write_state("stopped", step, None)

    def write_state(self, phase: str, step: int, total: int | None) -> None:
        """Write the run's phase and step to `state.json`, for `jobs` and `report`."""
        if self.is_main:
            write_state(self.dir, self.attempt, phase, step, total)

    def begin_environment(self) -> None:
        """Write this attempt's node and versions to `environment.json`; other facts of an earlier attempt are kept."""
        if self.is_main:
            earlier: dict[str, Any] = {}
            with suppress(DamagedFile):  # nothing depends on it
                earlier = read_environment(self.dir)
            write_json(self.files.environment, {**earlier, **self._versions(), "nodes": [platform.node()]})

    def write_environment(self, nodes: list[str], gpus: list[str], threads: int, **fingerprints: Any) -> None:
        """Write the machines and versions of this attempt to `environment.json`. `gpus`: names of this node's GPUs."""
        about = {"nodes": nodes, "gpus": gpus, "threads": threads, **fingerprints}
        write_json(self.files.environment, {**self._versions(), **about})

    def _versions(self) -> dict[str, Any]:
        versions = {"psychocounsel": __version__} | {name: version(name) for name in _VERSIONS}
        about = {"python": platform.python_version(), "versions": versions}
        return {"attempt": self.attempt, **about, "processes": self.processes}


def read_environment(run_dir: Path) -> dict[str, Any]:
    """Return `environment.json`, or {} if no attempt has written it yet."""
    return read_mapping(RunDir(run_dir).environment)
