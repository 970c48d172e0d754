"""A run as its worker sees it: directory, configuration, rank, log, state."""

import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from omegaconf import DictConfig

from psychocounsel import __version__
from psychocounsel.errors import UserError
from psychocounsel.rundir.owner import ownership
from psychocounsel.storage.files import write_json

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
        """Own the directory (rank 0) and write to `logs/<attempt>/rank-<rank>.log`.

        Raises:
            UserError: if a live process owns the directory.
        """
        rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        attempt = int(os.environ.get("PSYCHOCOUNSEL_ATTEMPT", 1))
        logs = run_dir / "logs" / f"{attempt:02d}"
        logs.mkdir(parents=True, exist_ok=True)
        with ownership(run_dir) if rank == 0 else nullcontext(), open(logs / f"rank-{rank}.log", "a", 1) as log:
            try:
                yield cls(run_dir, config, rank, processes, attempt, log)
            except UserError as error:
                print(f"error: {error}", file=log)
                raise
            except BaseException:
                traceback.print_exc(file=log)
                raise

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def say(self, text: str) -> None:
        """Tell the user (rank 0) and the log."""
        print(text, file=self.log)
        if self.is_main:
            print(text, file=sys.stderr, flush=True)

    def write_state(self, phase: str, step: int, total: int | None) -> None:
        """`state.json`, which `jobs` and `report` read: attempt, phase, step, total, heartbeat (seconds since 1970)."""
        if self.is_main:
            state = {"attempt": self.attempt, "phase": phase, "step": step, "total": total, "heartbeat": time.time()}
            write_json(self.dir / "state.json", state, durable=False)

    def write_environment(self, nodes: list[str], **fingerprints: Any) -> None:
        """`environment.json`: what this attempt ran on and with."""
        import torch

        use_cuda = os.environ.get("PSYCHOCOUNSEL_DEVICE") == "cuda"
        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count() if use_cuda else 0)]
        environment = {
            "attempt": self.attempt,
            "nodes": nodes,
            "python": platform.python_version(),
            "versions": {"psychocounsel": __version__} | {name: version(name) for name in _VERSIONS},
            "gpus": gpus,
            "processes": self.processes,
            "threads": torch.get_num_threads(),
            **fingerprints,
        }
        write_json(self.dir / "environment.json", environment)
