"""Servers started with training: `servers/N.json` holds the address of each ready server, `servers/key` their shared secret."""

import os
import time
from pathlib import Path

from psychocounsel.rundir.paths import RunDir
from psychocounsel.storage.files import read_json, shared_secret, write_json


def addresses(run_dir: Path) -> list[str]:
    """Return the addresses of this job's servers that are ready."""
    found = [read_json(file) or {} for file in RunDir(run_dir).ready_servers()]
    return [each["address"] for each in found if each.get("job") == _job()]


def note_ready(run_dir: Path, number: int, address: str) -> None:
    """Tell the run that server `number` of this job is ready."""
    write_json(RunDir(run_dir).server(number), {"address": address, "job": _job(), "ready": time.time()})


def secret(run_dir: Path) -> str:
    """Return the secret that the run and its servers share; the first caller creates it."""
    return shared_secret(RunDir(run_dir).server_key)


def _job() -> str:
    return os.environ.get("SLURM_JOB_ID", "0")
