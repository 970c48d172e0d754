"""Servers beside training: `servers/N.json` holds the address of each that is ready, `servers/key` the secret they share."""

import os
from pathlib import Path

from psychocounsel.storage.files import read_json

FOLDER = "servers"
KEY_FILE = "servers/key"


def addresses(run_dir: Path) -> list[str]:
    """The servers of this job that are ready now."""
    job = os.environ.get("SLURM_JOB_ID", "0")
    found = [read_json(file) or {} for file in sorted((run_dir / FOLDER).glob("*.json"))]
    return [each["address"] for each in found if each.get("job") == job]
