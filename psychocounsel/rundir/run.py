"""A run as its worker sees it: directory, configuration, rank, log and state."""

import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from omegaconf import DictConfig

from psychocounsel import __version__
from psychocounsel.errors import GoOnLater, UserError, print_failure
from psychocounsel.rundir.owner import ownership
from psychocounsel.rundir.paths import AttemptDir, RunDir
from psychocounsel.rundir.results import ATTEMPT, read_formed, write_state
from psychocounsel.storage.files import DamagedFile, read_json, read_mapping, shared_secret, write_json

# The run

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

    def give_up(self, text: str, step: int, phase: str = "stopped") -> None:
        """Print why the run stops after `step` steps, even if the disk is full; `phase` is what `state.json` says."""
        if self.is_main:
            print(text, file=sys.stderr, flush=True)
        with suppress(OSError):
            os.write(
                self.log.fileno(), f"{text}\n".encode()
            )  # bypasses the buffer, which would otherwise be flushed again
        with suppress(OSError):
            self.write_state(phase, step, None)

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


# Attempts: `logs/01`, `logs/02`, ...; under SLURM each has a record

BEGAN, LAUNCHED = (
    "PSYCHOCOUNSEL_BEGAN",
    "PSYCHOCOUNSEL_LAUNCHED",
)  # start of the command, and of its processes [s since 1970]

_engine_log: list[Path] = []  # of this process; empty or one file


def attempts(run_dir: Path) -> list[dict[str, Any]]:
    """Return the records of all attempts under SLURM, oldest first, each with its `number`. Raises DamagedFile."""
    files = RunDir(run_dir)
    records = [(number, files.attempt(number).record) for number in files.attempt_numbers()]
    return [{**read_formed(record, ATTEMPT), "number": number} for number, record in records if record.exists()]


def next_number(run_dir: Path) -> int:
    """Return the number of the next attempt, counting attempts on any cluster."""
    return max(RunDir(run_dir).attempt_numbers(), default=0) + 1


def note_attempt(attempt: AttemptDir, **about: Any) -> None:
    """Add facts to the record of an attempt."""
    write_json(attempt.record, {**read_mapping(attempt.record), **about})


def start_times() -> dict[str, str]:
    """Return the environment variables that tell processes, launched now, when their command began.

    The first run of a command began with it; the later runs of a sweep begin when they are launched.
    """
    now = str(time.time())
    return {BEGAN: os.environ.pop(BEGAN, now), LAUNCHED: now}


def keep_engine_log(file: Path) -> None:
    """Set the file that receives the output of inference engines starting in this process."""
    _engine_log[:] = [file]


def engine_log() -> Path | None:
    """Return the file for the output of an engine's start; None outside of a run."""
    return _engine_log[0] if _engine_log else None


# Servers started with training: `servers/N.json` (address) and `servers/key` (shared secret)


def job_servers(run_dir: Path) -> list[str]:
    """Return the addresses of this job's servers that are ready."""
    servers = [read_json(file) or {} for file in RunDir(run_dir).ready_servers()]
    return [server["address"] for server in servers if server.get("job") == this_job()]


def note_ready_server(run_dir: Path, number: int, address: str) -> None:
    """Tell the run that server `number` of this job is ready."""
    write_json(RunDir(run_dir).server(number), {"address": address, "job": this_job(), "ready": time.time()})


def ended_servers(run_dir: Path) -> dict[int, str]:
    """Return how servers of this job ended that nobody had asked to, by their numbers."""
    notes = {int(file.stem): read_json(file) or {} for file in RunDir(run_dir).ended_servers()}
    return {number: note["ending"] for number, note in notes.items() if note.get("job") == this_job()}


def note_ended_server(run_dir: Path, number: int, ending: str) -> None:
    """Tell the job that waits for its servers that server `number` ended, and how."""
    write_json(RunDir(run_dir).ended_server(number), {"ending": ending, "job": this_job()})


def server_secret(run_dir: Path) -> str:
    """Return the secret that the run and its servers share; the first caller creates it."""
    return shared_secret(RunDir(run_dir).server_key)


def this_job() -> str:
    """Return the number of this process's SLURM job; 0 if it has none."""
    return os.environ.get("SLURM_JOB_ID", "0")
